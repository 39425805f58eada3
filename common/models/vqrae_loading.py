"""A saved VQRAE, strictly: its own kind of config, and every weight, neither more nor less."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import UserError, one_line
from common.models.vqrae import VQRAE
from common.models.weight_files import resolve_folder


def load_vqrae(source: str, attn_implementation: str = "sdpa") -> tuple[VQRAE, Path]:
    """The VQRAE at `source` in float32, and the folder its weights stand in.

    `source` is a VQRAE's folder, a hub id, or a generator's folder, whose VQRAE is in `vqrae/`.

    Raises:
        UserError: no checkpoint there, one of another kind, or weights that do not fit its config.
    """
    folder = resolve_folder(source)
    folder = folder / "vqrae" if (folder / "vqrae" / "config.json").is_file() else folder
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'}: not a VQRAE checkpoint: {one_line(error)}") from error
    if kind != "vqrae":
        raise UserError(f"{folder / 'config.json'}: model_type: expected 'vqrae', found {kind!r}")
    try:
        model, info = VQRAE.from_pretrained(
            folder, attn_implementation=attn_implementation, output_loading_info=True
        )
    except Exception as error:  # the library raises many kinds for damaged files and misfits
        raise UserError(f"{folder}: cannot be loaded as a VQRAE: {one_line(error)[:300]}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise UserError(
                f"{folder}: weights do not fit config.json: {problem}: {sorted(info[problem])[0]}"
            )
    return model.float(), folder
