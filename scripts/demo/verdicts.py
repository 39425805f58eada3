"""The pictures that an evaluation of the demo drew, with what the exact detector made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, refusing
from evals.geneval.rules import Metadata


@dataclass(frozen=True)
class Judged:
    """`path`: of the picture; `correct`: whether GenEval's rules accepted it."""

    path: Path
    metadata: Metadata
    correct: bool


def judged_pictures(demo: Path, folder: str) -> list[Judged]:
    """Those of `demo/folder`, in the order of prompts and their pictures.

    Raises:
        UserError: no pictures were judged there.
    """
    path = demo / folder / "verdicts.jsonl"
    with refusing(f"{path}: no pictures were judged there", OSError, ValueError, KeyError):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        # What was written elsewhere, or has been moved: FOLDER/pictures/NNNNN/samples/NNNN.png.
        found = [
            Judged(
                demo.joinpath(*Path(line["filename"]).parts[-5:]),
                json.loads(line["metadata"]),
                line["correct"],
            )
            for line in lines
        ]
    if not found:
        raise UserError(f"{path}: no pictures were judged there")
    return found
