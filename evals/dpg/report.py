"""What DPG-Bench leaves behind: scores, verdicts.jsonl, results.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import dist
from common.errors import UserError
from common.files import write_text
from evals.answers import NEITHER
from evals.dpg.answers import Given, neither
from evals.dpg.mplug.released import NAME
from evals.dpg.rules import Item, Mode, blob_of, cascade, is_official, item_score, orphans, scores
from evals.drawing import Origin
from evals.result_table import finish
from evals.results import Results
from evals.targets import find

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

    Raises:
        UserError: the judge is refused, see `check_judge`; only the verdicts are written then.
    """
    answers = {
        name: [{number: answer == "yes" for number, answer in tile.items()} for tile in tiles]
        for name, tiles in given.items()
    }
    found, dropped = scores(chosen, answers, scoring)
    (output / "results.json").unlink(missing_ok=True)
    verdicts = (_verdict(item, given[item.name], answers[item.name]) for item in chosen)
    write_text(output / "verdicts.jsonl", "".join(json.dumps(verdict) + "\n" for verdict in verdicts))
    undecided, note = check_judge(given, f"{output / 'verdicts.jsonl'}: judge {judge['name']}")
    target = find("dpg_bench", None)
    incomparable = target.incomparable if target is not None and scoring == "official" else {}
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
        details={
            "dropped_by_the_official_rule": dropped,
            "neither_yes_nor_no": undecided,
            "incomparable": dict(incomparable),
        },
    )
    notes = [note]
    if dropped:
        notes.append(f"dropped by the official rule, as the original does: {', '.join(dropped)}")
    finish(output, results, notes)


def _verdict(item: Item, given: list[dict[int, str]], answers: list[dict[int, bool]]) -> dict[str, Any]:
    whole = not orphans(item)
    return {
        "item_id": item.name,
        "prompt": item.text,
        "score": item_score(item, answers) if whole else None,
        "answers": given,
        "counted": [cascade(item, tile) for tile in answers] if whole else None,
    }


def check_judge(given: Given, where: str) -> tuple[dict[str, int], str]:
    """How many answers there are, and how many are neither yes nor no and so count as no; and that in a line.

    Raises:
        UserError: more than `NEITHER` of them.
    """
    answers = sum(len(tile) for tiles in given.values() for tile in tiles)
    found = neither(given)
    count = found.total()
    often = ", ".join(f"{answer[:40]!r} ({times})" for answer, times in found.most_common(3))
    said = f"{count} of {answers} answers are neither yes nor no" + (f", such as {often}" if often else "")
    if count > NEITHER * answers:
        raise UserError(f"{where}: {said}; over {NEITHER:.0%} it is no judge of yes and no")
    return {"answers": answers, "neither": count}, f"{said}; they count as no" if count else said


def protocol(scoring: str, judge: Mapping[str, Any], items: int, official_csv: bool) -> str:
    """`official`, or how it differs: figures of different protocols are not compared."""
    differences = []
    if scoring != "official":
        differences.append(f"{scoring} scoring")
    if judge["source"] != NAME:  # a folder may bear any name
        differences.append(f"judge {judge['name']}")
    if items != OFFICIAL_ITEMS:
        differences.append(f"{items} prompts")
    elif not official_csv:
        differences.append("other questions")
    return ", ".join(differences) or "official"
