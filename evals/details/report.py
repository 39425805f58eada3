"""What the measuring of details leaves behind: curves as results.json and a figure, every row, and pages."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import dist
from common.files import write_png, write_text
from evals.details import figure, pages
from evals.details.charts import DetailTest
from evals.details.curves import Curve, curve, scores_of
from evals.details.measuring import ORIGINAL, Rebuild, Row
from evals.result_table import finish
from evals.results import Results


def report(
    args: argparse.Namespace,
    tests: Sequence[DetailTest],
    rows: Mapping[str, Mapping[str, Sequence[Row]]],
    rebuilds: Mapping[str, Rebuild],
    sha256: Mapping[str, str],
    side: int,
    left_out: Sequence[str],
    charts: Mapping[str, int],
    seconds: float,
) -> None:
    """Write all of it into `args.output` and print the table; one process calls it.

    Args:
        rows: by source (`ORIGINAL`, and each model's name) and test.
        rebuilds, sha256: of each model, by its name.
        left_out: lines about what was not measured.
        charts: how many of each test were to be measured.
    """
    curves = {source: curves_of(tests, found) for source, found in rows.items()}
    write_rows(args.output / "rows.jsonl", rows)
    shown = [test for test in tests if curves[ORIGINAL][test.name]]
    figure.draw(args.output / "figure.png", shown, curves, side)
    for test in shown:
        sheet = pages.page(test, rows, rebuilds, pages.worst(test, rows))
        write_png(args.output / "pages" / f"{test.name}.png", sheet)
    empty = [f"{test.name}: nothing to measure in --images" for test in tests if test not in shown]
    results = Results(
        benchmark="details",
        protocol=f"details, {side} px",
        scores=named_scores({name: scores_of(curves[name]) for name in rebuilds}),
        expected=sum(charts.values()) * len(rebuilds),
        scored=sum(charts.values()) * len(rebuilds),
        partial=any(charts[test.name] < len(test) for test in tests),
        settings={
            "size": side,
            "seed": args.seed,
            "per_level": args.per_level,
            "images": args.images,
            "charts": dict(charts),
            "tests": {test.name: {"axis": test.axis, **test.identity} for test in tests},
            "batch_size": args.batch_size,
            "left_out": [*left_out, *empty],
        },
        model={"source": ", ".join(args.model), "weights_sha256": dict(sha256)},
        seconds=round(seconds, 1),
        processes=dist.world(),
        details={
            "original": scores_of(curves[ORIGINAL]),
            "curves": {
                source: {
                    test: {measure: found.as_json() for measure, found in measures.items()}
                    for test, measures in found_curves.items()
                }
                for source, found_curves in curves.items()
            },
        },
    )
    notes = [f"left out: {line}" for line in (*left_out, *empty)]
    finish(args.output, results, [*notes, f"curves: {args.output / 'figure.png'}"])


def write_rows(path: Path, rows: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
    """What was measured of each chart, a line each."""
    lines = (
        json.dumps({"source": source, "test": test, **row})
        for source, found in rows.items()
        for test, part in found.items()
        for row in part
    )
    write_text(path, "".join(f"{line}\n" for line in lines))


def curves_of(tests: Sequence[DetailTest], found: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Curve]]:
    """DetailTest -> measure -> curve; without measures that no row has."""
    drawn = {
        test.name: {measure: curve(test, measure, found[test.name]) for measure in test.measures}
        for test in tests
    }
    return {
        test: {measure: line for measure, line in lines.items() if line is not None}
        for test, lines in drawn.items()
    }


def named_scores(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """All models' scores in one table: by measure, then by model; of one model alone, without its name."""
    if len(scores) == 1:
        return dict(next(iter(scores.values())))
    measures = dict.fromkeys(measure for own in scores.values() for measure in own)
    return {
        f"{measure}, {name}": own[measure]
        for measure in measures
        for name, own in scores.items()
        if measure in own
    }
