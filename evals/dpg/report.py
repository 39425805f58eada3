"""What DPG-Bench leaves behind: scores, verdicts.jsonl, results.json."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import dist
from common.files import write_text
from evals.dpg.answers import Given
from evals.dpg.judges import MPLUG
from evals.dpg.rules import Item, cascade, is_official, item_score, orphans, scores
from evals.drawing import recorded_drawing
from evals.results import Results, finish

OFFICIAL_ITEMS = 1065


def report(
    arguments: argparse.Namespace,
    csv: Path,
    items: Sequence[Item],
    chosen: Sequence[Item],
    given: Given,
    judge: Mapping[str, Any],
    pictures: Path,
    seconds: float,
) -> None:
    """Write all of it and print the table; one process calls it.

    Args:
        items: the whole set; `chosen` is what --limit left of it.
        judge: the identity of who answered.
    """
    answers = {
        name: [{number: answer == "yes" for number, answer in tile.items()} for tile in tiles]
        for name, tiles in given.items()
    }
    found, dropped = scores(chosen, answers, arguments.scoring)
    lines = []
    for item in chosen:
        whole = not orphans(item)
        record = {
            "item_id": item.name,
            "prompt": item.text,
            "score": item_score(item, answers[item.name]) if whole else None,
            "answers": given[item.name],
            "counted": [cascade(item, tile) for tile in answers[item.name]] if whole else None,
        }
        lines.append(json.dumps(record) + "\n")
    write_text(arguments.output / "verdicts.jsonl", "".join(lines))
    drawing = recorded_drawing(pictures / "drawn" if arguments.pictures is None else pictures)
    results = Results(
        benchmark="dpg_bench",
        protocol=protocol(arguments.scoring, judge, len(items), is_official(csv.read_bytes())),
        scores=found,
        expected=len(chosen),
        scored=len(given),
        partial=len(chosen) < len(items),
        settings={"scoring": arguments.scoring, "judge": dict(judge), "drawing": drawing},
        model={
            "source": arguments.model or drawing.get("model") or str(arguments.pictures),
            "weights_sha256": drawing.get("weights_sha256"),
        },
        prompt_set={
            "source": str(arguments.csv or "official"),
            "sha256": hashlib.sha256(csv.read_bytes()).hexdigest(),
        },
        seconds=round(seconds, 1),
        processes=dist.world(),
        details={"dropped_by_the_official_rule": dropped},
    )
    notes = [f"dropped by the official rule, as the original does: {', '.join(dropped)}"] if dropped else []
    finish(arguments.output, results, notes)


def protocol(scoring: str, judge: Mapping[str, Any], items: int, official_csv: bool) -> str:
    """`official`, or how it differs: figures of different protocols are not compared."""
    differences = []
    if scoring != "official":
        differences.append(f"{scoring} scoring")
    if judge["source"] != MPLUG:  # a folder may bear any name
        differences.append(f"judge {judge['name']}")
    if items != OFFICIAL_ITEMS:
        differences.append(f"{items} prompts")
    elif not official_csv:
        differences.append("other questions")
    return ", ".join(differences) or "official"
