"""The settings that a generator's folder brings along for drawing with it.

    MODEL/sampling.json            all of them, and where they are from
    MODEL/generation_config.json   those that transformers and engines know

Everything that draws starts from the first; what a call states stands in its place.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from common.config import validate
from common.errors import UserError, refusing
from common.files import write_json
from generation.sampling import Sampling

FILE = "sampling.json"
OF_A_RECIPE = "samples.sampling of the recipe"


def write_sampling(folder: Path, sampling: Sampling, origin: str) -> None:
    """Write FOLDER/sampling.json; `origin` says in words where the settings are from."""
    write_json(folder / FILE, {"sampling": as_json(sampling), "origin": origin})


def read_sampling(folder: Path) -> tuple[Sampling, str]:
    """What FOLDER/sampling.json states, and its origin; the defaults where there is no such file.

    Raises:
        UserError: a setting that is unknown, missing, or out of range.
    """
    path = folder / FILE
    if not path.is_file():
        return Sampling(), f"the defaults: {folder} has no {FILE}"
    with refusing(f"{path}: cannot be read", OSError, ValueError):
        stated = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stated, dict) or not isinstance(stated.get("sampling"), dict):
        raise UserError(f"{path}: sampling: expected the settings of the sampler")
    absent = {field.name for field in dataclasses.fields(Sampling)} - set(stated["sampling"])
    if absent:
        raise UserError(f"{path}: sampling.{min(absent)}: missing")
    sampling = validate(Sampling, stated["sampling"], where=f"{path}: sampling")
    return sampling, f"{path}: {stated.get('origin', 'of unknown origin')}"


def as_json(sampling: Sampling) -> dict[str, Any]:
    """Plain data, as JSON gives it back."""
    return {**dataclasses.asdict(sampling), "cfg_interval": list(sampling.cfg_interval)}


def hub_fields(sampling: Sampling, steps: int) -> dict[str, Any]:
    """The settings as fields of transformers' `GenerationConfig`, as far as it has them.

    Its guidance takes the prompt's last token for the unconditional prompt, as ours is. It has no schedule and no
    interval: guidance is left out then.
    """
    plain = sampling.cfg_schedule == "constant" and sampling.cfg_interval == (0.0, 1.0)
    guidance = sampling.cfg_scale if plain and sampling.cfg_scale != 1 else None
    fields: dict[str, Any] = {
        "guidance_scale": guidance,
        "min_new_tokens": steps,
        "max_new_tokens": steps,
        "do_sample": not sampling.greedy,
    }
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p}
    return {**fields, **(dict.fromkeys(drawn) if sampling.greedy else drawn)}
