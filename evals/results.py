"""The one form of a result: results.json, and a table with the paper's figures beside ours.

What is notable here: a result that is not whole never looks like one. `finish` writes what there is, then raises, so
that the command exits non-zero; only `--limit` makes a smaller result legitimate, and marks it in file and table.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
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
    "modelscope",
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
    paper_row: str | None = None
    """Which row of the paper's table the model is the counterpart of; None: unknown, or the table has one row."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the evaluation has to say: intervals, scores of parts."""

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


def finish(folder: Path, results: Results, notes: Sequence[str] = ()) -> None:
    """Write, print the table, and refuse what is not whole; one process calls it.

    Args:
        notes: lines to print below the table.

    Raises:
        UserError: fewer samples were scored than `expected`; what there is has been written.
    """
    path = write(folder, results)
    print_table(results, notes)
    print(f"written to {path}")
    if not results.complete():
        raise UserError(
            f"{path}: incomplete: {results.scored} of {results.expected} samples scored; not a result"
        )


def print_table(results: Results, notes: Sequence[str] = ()) -> None:
    """Scores, the paper's beside them where it has some, and whether the two may be compared."""
    from rich.console import Console
    from rich.table import Table

    from evals.targets import compare, missing_row

    rows = compare(results)
    table = Table(title=f"{results.benchmark} ({results.protocol})", title_justify="left")
    table.add_column("score")
    table.add_column("ours", justify="right")
    with_paper = any(row.paper is not None for row in rows)
    if with_paper:
        for heading in ("paper", "difference"):
            table.add_column(heading, justify="right")
        table.add_column("comparable")
    for row in rows:
        cells = [row.score, f"{row.ours:.5g}"]
        if with_paper and row.paper is not None and row.difference is not None:
            cells += [f"{row.paper:g}", f"{row.difference:+.4g}", "yes" if row.comparable else "no"]
        table.add_row(*cells)
    console = Console(soft_wrap=True)
    console.print(results.model.get("source", ""), highlight=False, markup=False)
    console.print(table)
    console.print(f"{results.scored} of {results.expected} samples scored", highlight=False)
    reasons = {row.why_not for row in rows if row.paper is not None and row.why_not}
    lines = [f"Not comparable with the paper: {reason}." for reason in sorted(reasons)]
    if results.partial:
        lines = ["PARTIAL: --limit left samples out; the scores are not comparable."]
    for line in (*lines, *missing_row(results), *notes):
        console.print(line, highlight=False, markup=False)


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
