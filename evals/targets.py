"""The paper's tables beside our results: score, paper, ours, difference, and whether the two may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.results import Results

FILE = Path(__file__).with_name("targets.yaml")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row of one of the paper's tables."""

    table: str
    protocol: str
    scores: dict[str, float]
    samples: int | dict[str, int] | None = None
    """Behind every score, or behind each; None: whatever the protocol's complete set has."""

    def samples_of(self, score: str) -> int | None:
        return self.samples.get(score) if isinstance(self.samples, dict) else self.samples


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


@cache
def load() -> dict[str, dict[str, Target]]:
    """targets.yaml: benchmark -> name of a row -> target."""
    import yaml

    tables = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        benchmark: {name: Target(table=table["table"], **row) for name, row in table["rows"].items()}
        for benchmark, table in tables.items()
    }


def rows(benchmark: str) -> list[str]:
    """Names of the paper's rows for a benchmark; none where it has no figures."""
    return list(load().get(benchmark, {}))


def find(results: Results) -> Target | None:
    """The row that `results.paper_row` names, or the only one there is."""
    candidates = load().get(results.benchmark, {})
    if results.paper_row is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    return candidates.get(results.paper_row or "")


def compare(results: Results) -> list[Comparison]:
    """Every score of ours, in its order."""
    target = find(results)
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
    if find(results) is None and (names := rows(results.benchmark)):
        return [f"The paper's figures: --paper-row NAME, one of: {'; '.join(names)}."]
    return []


def _why_not(results: Results, target: Target, score: str) -> str | None:
    if results.partial:
        return "--limit left samples out"
    if not results.complete():
        return f"{results.scored} of {results.expected} samples scored"
    if results.protocol != target.protocol:
        return f"protocol '{results.protocol}', {target.table} by '{target.protocol}'"
    ours, theirs = results.score_counts.get(score, results.scored), target.samples_of(score)
    if theirs is not None and ours != theirs:
        return f"{ours} samples, {target.table} has {theirs}"
    return None
