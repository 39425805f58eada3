"""How an evaluation ends: results.json, and a table with the paper's figures beside ours.

What is notable here: a result that is not whole never looks like one. `finish` writes what there is, then raises, so
that the command exits non-zero; only `--limit` makes a smaller result legitimate, and marks it in file and table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from evals.results import Results, write
from evals.targets import Target, find, rows


@dataclass(frozen=True)
class Comparison:
    """One score of ours beside the paper's, if it has one."""

    score: str
    paper: float | None
    ours: float
    difference: float | None
    """Ours - paper."""
    comparable: bool
    why_not: str | None
    """None where comparable, or where the paper has no such score."""


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

    compared = compare(results)
    table = Table(title=f"{results.benchmark} ({results.protocol})", title_justify="left")
    table.add_column("score")
    table.add_column("ours", justify="right")
    with_paper = any(row.paper is not None for row in compared)
    if with_paper:
        for heading in ("paper", "difference"):
            table.add_column(heading, justify="right")
        table.add_column("comparable")
    for row in compared:
        cells = [row.score, f"{row.ours:.5g}"]
        if with_paper and row.paper is not None and row.difference is not None:
            cells += [f"{row.paper:g}", f"{row.difference:+.4g}", "yes" if row.comparable else "no"]
        table.add_row(*cells)
    console = Console(soft_wrap=True)
    console.print(results.model.get("source", ""), highlight=False, markup=False)
    console.print(table)
    console.print(f"{results.scored} of {results.expected} samples scored", highlight=False)
    reasons = {row.why_not for row in compared if row.paper is not None and row.why_not}
    lines = [f"Not comparable with the paper: {reason}." for reason in sorted(reasons)]
    if results.partial:
        lines = ["PARTIAL: --limit left samples out; the scores are not comparable."]
    for line in (*lines, *missing_row(results), *notes):
        console.print(line, highlight=False, markup=False)


def compare(results: Results) -> list[Comparison]:
    """Every score of ours, in its order."""
    target = find(results.benchmark, results.paper_row)
    compared = []
    for score, ours in results.scores.items():
        paper = target.scores.get(score) if target else None
        if target is None or paper is None:
            compared.append(Comparison(score, None, ours, None, False, None))
        else:
            reason = _why_not(results, target, score)
            compared.append(Comparison(score, paper, ours, ours - paper, reason is None, reason))
    return compared


def missing_row(results: Results) -> list[str]:
    """A hint for the table's foot, where the paper has several rows and none was named."""
    if find(results.benchmark, results.paper_row) is None and (names := rows(results.benchmark)):
        return [f"The paper's figures: --paper-row NAME, one of: {'; '.join(names)}."]
    return []


def _why_not(results: Results, target: Target, score: str) -> str | None:
    if score in target.incomparable.get("scores", ()):
        return f"{', '.join(target.incomparable['scores'])}: {target.incomparable['because']}"
    if results.partial:
        return "--limit left samples out"
    if not results.complete():
        return f"{results.scored} of {results.expected} samples scored"
    if results.protocol != target.protocol:
        return f"protocol '{results.protocol}', {target.table} by '{target.protocol}'"
    asked, wanted = results.fingerprint_of(score), target.fingerprint_of(score)
    if wanted is not None and asked != wanted:
        return (
            f"{score} has prompts {asked or 'of no fingerprint'}, those of {target.table}'s tool are {wanted}"
        )
    ours, theirs = results.score_counts.get(score, results.scored), target.samples_of(score)
    if theirs is not None and ours != theirs:
        return f"{ours} samples, {target.table} has {theirs}"
    return None
