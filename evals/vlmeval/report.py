"""What a run of VLMEvalKit leaves behind, read into results.json and the table."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class PaperData:
    """A data set of Table 3: the score's name there, which of VLMEvalKit's metrics it is, and the table's unit."""

    score: str
    metric: str
    """A regular expression for the whole name."""
    scale: float = 1.0


_SPLIT = r"(split=\w+\|)?Overall"
PAPER_DATA = {
    "MME": PaperData("mme_perception", "perception"),
    "POPE": PaperData("pope", r"split=Overall\|Overall"),  # F1, in percent
    "MMBench_DEV_EN": PaperData("mmbench", _SPLIT, 100),
    "SEEDBench_IMG": PaperData("seedbench", _SPLIT, 100),
    "TextVQA_VAL": PaperData("textvqa", "Overall"),
    "GQA_TestDev_Balanced": PaperData("gqa", "Overall"),
    "AI2D_TEST": PaperData("ai2d", _SPLIT, 100),
    "MMMU_DEV_VAL": PaperData("mmmu", r"split=validation\|Overall", 100),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Of a data set: questions in it, questions asked, and a digest of the latter (without their pictures)."""

    found: int
    asked: int
    sha256: str


def read_scores(data: str, metrics: dict[str, Any]) -> dict[str, float]:
    """A data set's scores, in the units and by the names of `targets.yaml`; of any other one, all its numbers.

    Raises:
        UserError: the metric that the table shows is not among them.
    """
    paper = PAPER_DATA.get(data)
    if paper is None:
        return {f"{data}/{name}": float(value) for name, value in metrics.items()}
    found = [value for name, value in metrics.items() if re.fullmatch(paper.metric, name)]
    if len(found) != 1:
        raise UserError(f"VLMEvalKit: {data}: expected one metric {paper.metric}, found {sorted(metrics)}")
    return {paper.score: paper.scale * float(found[0])}


def read_run(run: Path, data: str) -> dict[str, float]:
    """The scores of a data set in a run's folder.

    Raises:
        UserError: the data set was left out or failed, which run.py itself ends well with.
    """
    entry = json.loads((run / "status.json").read_text(encoding="utf-8"))["datasets"].get(data, {})
    reason = entry.get("error_message") or entry.get("skip_reason")
    if reason or not entry.get("metrics"):
        raise UserError(
            f"VLMEvalKit: {data}: {reason or 'ended without a score'}; its log is in {run.parent}"
        )
    return read_scores(data, entry["metrics"])


def by_score(values: Mapping[str, Value], scores: Mapping[str, Mapping[str, float]]) -> dict[str, Value]:
    """What is known of data sets, by the scores that come from them."""
    return {name: values[data] for data, found in scores.items() if data in values for name in found}


def cut_notes(cut: Mapping[str, int]) -> list[str]:
    return [
        f"{data}: {count} answers were cut off at their most tokens" for data, count in cut.items() if count
    ]


def report(
    output: Path,
    names: list[str],
    asked: dict[str, Asked],
    run: Path,
    *,
    cut: dict[str, int],
    fingerprints: dict[str, str],
    model: dict[str, Any],
    settings: dict[str, Any],
    paper_row: str | None,
    seconds: float,
) -> None:
    """results.json and the table.

    Args:
        names: the data sets that were to be asked; `asked` has those that could be.
        run: the folder that VLMEvalKit left.
        cut: answers that were cut off at the most tokens they may have, by data set.
        fingerprints: of the prompts, by data set, where they are known.
        model, settings: as in `Results`.

    Raises:
        UserError: a data set was left out or failed, or a question went unanswered.
    """
    from vlmeval.smp import collect_run_benchmark_report

    from evals.result_table import finish
    from evals.results import Results

    rows = collect_run_benchmark_report(run)
    answered = {row["benchmark"]: row["infer_total"] - row["infer_failed"] for row in rows}
    scores = {data: read_run(run, data) for data in names}
    sets = {data: asked[data] for data in names}
    shas = {data: one.sha256 for data, one in sets.items()}
    digest = hashlib.sha256("".join(shas.values()).encode()).hexdigest()
    finish(
        output,
        Results(
            benchmark="understanding",
            protocol="VLMEvalKit",
            scores={name: score for found in scores.values() for name, score in found.items()},
            expected=sum(one.asked for one in sets.values()),
            scored=sum(answered[data] for data in sets),
            partial=any(one.asked < one.found for one in sets.values()),
            settings={"data": names, **settings},
            model=model,
            prompt_set={"source": ", ".join(sets), "sha256": digest},
            seconds=round(seconds, 1),
            processes=int(os.environ.get("WORLD_SIZE", "1")),
            score_counts=by_score(answered, scores),
            paper_row=paper_row,
            fingerprints=by_score(fingerprints, scores),
            details={"run": str(run), "asked_sha256": shas, "cut_answers": cut},
        ),
        [*cut_notes(cut), f"all that VLMEvalKit wrote: {run}"],
    )
