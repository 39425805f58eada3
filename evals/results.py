"""The one form of a result: what an evaluation found, and results.json."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, refusing
from common.files import write_json

PACKAGES = (
    "vqrae",
    "torch",
    "torchvision",
    "transformers",
    "torchmetrics",
    "torch-fidelity",
    "lpips",
    "numpy",
    "pillow",
    "lmms-eval",
    "vlmeval",
)
"""Whose versions stand in a result, where installed."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What an evaluation found, and all that a reader needs to repeat or compare it."""

    benchmark: str
    """A name of targets.yaml (`reconstruction`, `understanding`, `geneval`, `dpg_bench`), or any other."""
    protocol: str
    """By which rules; figures of different protocols are not compared."""
    scores: Mapping[str, float]
    """In the units of the paper's tables, named as in targets.yaml."""
    expected: int
    """Samples that this call set out to score."""
    scored: int
    partial: bool
    """Whether `--limit` left samples out."""
    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    """`source` as given, and `weights_sha256`."""
    prompt_set: Mapping[str, Any] | None = None
    """`source` and `sha256` of the prompts or questions; None where there are none."""
    seconds: float
    processes: int
    score_counts: Mapping[str, int] = field(default_factory=dict)
    """Samples behind a score, where scores have sets of their own; `scored` for the rest."""
    fingerprints: Mapping[str, str] | str | None = None
    """Of the prompts behind each score, or behind all (see `evals/fingerprint.py`); None where there are none."""
    paper_row: str | None = None
    """Which row of the paper's table the model is the counterpart of; None: unknown, or the table has one row."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the evaluation has to say: intervals, scores of parts."""

    def fingerprint_of(self, score: str) -> str | None:
        return self.fingerprints.get(score) if isinstance(self.fingerprints, Mapping) else self.fingerprints

    def complete(self) -> bool:
        """Whether everything that was to be scored was."""
        return 0 < self.scored == self.expected


def as_json(results: Results) -> dict[str, Any]:
    """What results.json holds: the fields, versions, and the commit of this checkout (None outside of git)."""
    from common.training.run import versions

    fields = dataclasses.asdict(results)
    counts = {"expected": fields.pop("expected"), "scored": fields.pop("scored")}
    score_counts = fields.pop("score_counts")
    return {
        "benchmark": fields.pop("benchmark"),
        "protocol": fields.pop("protocol"),
        "scores": fields.pop("scores"),
        "counts": {**counts, **({"of_scores": score_counts} if score_counts else {})},
        "complete": results.complete(),
        **fields,
        "versions": versions(PACKAGES),
        "commit": commit(),
    }


def write(folder: Path, results: Results) -> Path:
    """`folder`/results.json, whole or not at all; returns its path.

    Raises:
        UserError: a score is not finite, or the file cannot be written.
    """
    for name, score in results.scores.items():
        if not math.isfinite(score):
            raise UserError(f"{results.benchmark}: {name}: {score} is no score")
    path = folder / "results.json"
    write_json(path, as_json(results), allow_nan=False)
    return path


def read(folder: Path) -> dict[str, Any]:
    """What `write` has left in `folder`.

    Raises:
        UserError: it has left nothing there.
    """
    path = folder / "results.json"
    with refusing(f"{path}: expected the results of an evaluation", OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def commit() -> str | None:
    """The checkout's commit, with `-dirty` where tracked files differ from it."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
