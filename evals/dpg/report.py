"""What DPG-Bench leaves behind: scores, verdicts.jsonl, results.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import dist
from common.files import write_text
from evals.dpg.answers import Given
from evals.dpg.judges import MPLUG
from evals.dpg.rules import Item, Mode, blob_of, cascade, is_official, item_score, orphans, scores
from evals.drawing import Origin
from evals.result_table import finish
from evals.results import Results

OFFICIAL_ITEMS = 1065


def report(
    output: Path,
    chosen: Sequence[Item],
    given: Given,
    *,
    items: Sequence[Item],
    csv: Path,
    source: str,
    scoring: Mode,
    judge: Mapping[str, Any],
    origin: Origin,
    seconds: float,
) -> None:
    """Write all of it into `output` and print the table; one process calls it.

    Args:
        items: the whole set; `chosen` is what --limit left of it.
        csv: the file of questions, and `source` where it comes from.
        judge: the identity of who answered.
        origin: of the pictures.
    """
    answers = {
        name: [{number: answer == "yes" for number, answer in tile.items()} for tile in tiles]
        for name, tiles in given.items()
    }
    found, dropped = scores(chosen, answers, scoring)
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
    write_text(output / "verdicts.jsonl", "".join(lines))
    results = Results(
        benchmark="dpg_bench",
        protocol=protocol(scoring, judge, len(items), is_official(csv.read_bytes())),
        scores=found,
        expected=len(chosen),
        scored=len(given),
        partial=len(chosen) < len(items),
        settings={"scoring": scoring, "judge": dict(judge), "drawing": origin.drawing},
        model=origin.model,
        prompt_set={"source": source, "sha256": hashlib.sha256(csv.read_bytes()).hexdigest()},
        seconds=round(seconds, 1),
        processes=dist.world(),
        fingerprints=blob_of(csv.read_bytes())[:16],
        details={"dropped_by_the_official_rule": dropped},
    )
    notes = [f"dropped by the official rule, as the original does: {', '.join(dropped)}"] if dropped else []
    finish(output, results, notes)


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
