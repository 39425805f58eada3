"""Pages of pictures, one for each test: the chart and its reconstructions, those first in which most is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from PIL import Image

from common.sheets import below, beside, tile, words
from evals.details.charts import DetailTest
from evals.details.measuring import ORIGINAL, Rebuild, Row

SHOWN = 10
NOTE = 260
"""px: the width of the words beside the pictures."""
Rows = Mapping[str, Mapping[str, Sequence[Row]]]
"""Source -> test -> rows."""


def worst(test: DetailTest, rows: Rows) -> list[int]:
    """Indices of charts by how much of the first measure the sources lose against the original, on average; of those
    with equal losses the easier one first, where the loss surprises more."""
    measure = next(iter(test.measures))
    own = _by_chart(rows[ORIGINAL][test.name], measure)
    lost = {
        index: fmean(score - source[index][0] for source in _sources(test, rows, measure) if index in source)
        for index, (score, _) in own.items()
    }
    easier = 1 if test.harder == "larger" else -1
    return sorted(lost, key=lambda index: (-lost[index], easier * own[index][1], index))[:SHOWN]


def page(
    test: DetailTest, rows: Rows, rebuilds: Mapping[str, Rebuild], indices: Sequence[int]
) -> Image.Image:
    """A line for each chart: what was measured, then the chart and its reconstructions, a source each."""
    charts = [test.chart(index) for index in indices]
    stack = np.stack([chart.pixels for chart in charts])
    columns = [stack, *(rebuild(stack) for rebuild in rebuilds.values())]
    scores = [_by_chart(rows[source][test.name], next(iter(test.measures))) for source in rebuilds]
    sheet = [words(f"{test.name}: original | {' | '.join(rebuilds)}", 3 * NOTE)]
    for place, (index, chart) in enumerate(zip(indices, charts, strict=True)):
        said = f"{test.axis}: {chart.level:.3g}. {next(iter(test.measures.values()))}: "
        said += ", ".join(f"{source[index][0]:.3g}" for source in scores if index in source)
        pictures = [tile(Image.fromarray(column[place])) for column in columns]
        sheet.append(beside([words(said, NOTE, lines=6), *pictures]))
    return below(sheet)


def _sources(test: DetailTest, rows: Rows, measure: str) -> list[dict[int, tuple[float, float]]]:
    return [_by_chart(found[test.name], measure) for source, found in rows.items() if source != ORIGINAL]


def _by_chart(rows: Sequence[Row], measure: str) -> dict[int, tuple[float, float]]:
    """Mean score and level of each chart that has any."""
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["index"], []).append(row)
    return {
        index: (fmean(row["scores"][measure] for row in part), fmean(row["level"] for row in part))
        for index, part in parts.items()
    }
