"""From what was seen to curves: the mean of a measure at each level, and the level at which half is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evals.bootstrap import Interval, intervals
from evals.details.charts import DetailTest
from evals.details.measuring import Row

QUANTILES = 5
"""Of levels that are as they come: of pictures' detail, of faces' sizes."""
RESAMPLES = 1000
HALF = 0.5
SHARES = ("read", "ocr", "kept", "told", "detected", "found")
"""Measures that are 1 where nothing is lost: of these there is a level at which half is left."""


@dataclass(frozen=True)
class Curve:
    """A measure over levels, from the easiest to the hardest, of one source.

    `level` and `mean`, `low`, `high` (a bootstrap interval of 95% over charts), `count`: one value each for each level.
    `overall`: the mean of `mean`, with its interval. `half`: the level at which half is left, None if nowhere.
    """

    level: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    count: list[int]
    overall: float
    overall_interval: Interval
    half: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def curve(test: DetailTest, measure: str, rows: Sequence[Row]) -> Curve | None:
    """None where no row has the measure."""
    having = [row for row in rows if measure in row["scores"]]
    if not having:
        return None
    groups = grouped(test, having)
    scores = {str(at): [row["scores"][measure] for row in part] for at, (_, part) in enumerate(groups)}
    found = intervals(scores, resamples=RESAMPLES)
    levels = [level for level, _ in groups]
    means = [float(np.mean(scores[str(at)])) for at in range(len(groups))]
    return Curve(
        level=levels,
        mean=means,
        low=[found[str(at)][0] for at in range(len(groups))],
        high=[found[str(at)][1] for at in range(len(groups))],
        count=[len(part) for _, part in groups],
        overall=float(np.mean(means)),
        overall_interval=found["overall"],
        half=half_left(levels, means) if measure in SHARES else None,
    )


def grouped(test: DetailTest, rows: Sequence[Row]) -> list[tuple[float, list[Row]]]:
    """Rows by level, the easiest first; where levels are as they come, by quantile, each at its median level."""
    if test.levels is not None:
        levels = sorted({row["level"] for row in rows}, reverse=test.harder == "smaller")
        return [(level, [row for row in rows if row["level"] == level]) for level in levels]
    ordered = sorted(rows, key=lambda row: row["level"], reverse=test.harder == "smaller")
    parts = np.array_split(np.arange(len(ordered)), min(QUANTILES, len(ordered)))
    groups = [[ordered[at] for at in part] for part in parts]
    return [(float(np.median([row["level"] for row in part])), part) for part in groups]


def half_left(levels: Sequence[float], means: Sequence[float]) -> float | None:
    """Where a curve first falls below a half, from the easiest level on, between two levels by their logarithms.

    None where it begins below, or never falls below.
    """
    for at, mean in enumerate(means):
        if mean < HALF:
            if at == 0:
                return None
            share = (means[at - 1] - HALF) / (means[at - 1] - mean)
            logarithms = np.log(levels[at - 1 : at + 1])
            return float(np.exp(logarithms[0] + share * (logarithms[1] - logarithms[0])))
    return None


def scores_of(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, float]:
    """Test -> measure -> curve, of one source, as scores: `text_read`, and `text_read_half` where there is one."""
    scores = {}
    for test, measures in curves.items():
        for measure, found in measures.items():
            scores[f"{test}_{measure}"] = found.overall
            if found.half is not None:
                scores[f"{test}_{measure}_half"] = found.half
    return scores
