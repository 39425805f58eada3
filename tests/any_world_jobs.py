"""What the processes of `benchmarks/any_world.py` do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pair_jobs
import tiny
import tiny_generator
from ledger import losses

from common import dist


def write_shelves(folder: str) -> None:
    """A shelf for each trainer, under its name."""
    tiny.write_pictures(Path(folder) / "tokenizer")
    tiny.write_understanding_shelf(Path(folder) / "understanding")
    tiny_generator.write_shelf(Path(folder) / "generation")


def leg(base: str | None, overrides: list[str], notes: str, **inputs: Any) -> None:
    """`pair_jobs.leg`; what it read, the run's losses so far and its model's digest go into the folder `notes`.

    Args:
        base: a list of overrides in `tiny`.
    """
    first = getattr(tiny, base) if base else ()
    read = pair_jobs.leg(overrides=[*first, *overrides], **inputs)
    run = Path(inputs["output"])
    model = sorted((run / "model").rglob("*.safetensors"))  # none yet, unless this was the last part
    weights = hashlib.sha256(b"".join(file.read_bytes() for file in model)).hexdigest()
    found = {"read": read, "losses": losses(run), "weights": weights}
    (Path(notes) / f"{dist.rank()}.json").write_text(json.dumps(found))
