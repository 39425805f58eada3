"""Score a model's understanding with VLMEvalKit: seven tasks of the paper's Table 3 and GQA, or others.

    VLMEVALKIT=CHECKOUT PYTHON=ITS/bin/python bash evals/run_vlmevalkit.sh MODEL
    ... bash evals/run_vlmevalkit.sh MODEL --data MME POPE --limit 20

MODEL is a folder that understanding/internvl.py wrote, or understanding/train.py exported, or a hub id of such a model
(InternVL -hf, LLaVA). VLMEvalKit is not on the package index, and has an environment of its own: clone
open-compass/VLMEvalKit, install its requirements there, and name both as above. VLMEVALKIT is not needed where it was
installed with `pip install -e`.

Its own run.py does the work, with our checkpoint among its models. The same command goes on where a former one was
stopped. DIR receives results.json, and under the model's name all that run.py writes. Answers to multiple choice are
read by VLMEvalKit's rules alone, unless --judge names one of its judges. --limit is for trying things out: some of its
scores, MME's among them, need every category, and fail without.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cli
from evals import preflight
from evals.command import add_paper_row, build_parser

INSTALL = (
    "git clone VLMEvalKit (open-compass on GitHub), install its requirements in an environment of its own,\n"
)
INSTALL += "then: VLMEVALKIT=CHECKOUT PYTHON=ITS/bin/python bash evals/run_vlmevalkit.sh MODEL"


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


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser("run_vlmevalkit.sh", __doc__, "InternVL (-hf) or LLaVA: folder or hub id")
    parser.add_argument(
        "--data",
        nargs="+",
        default=list(PAPER_DATA),
        metavar="NAME",
        help=f"names that VLMEvalKit knows (default: {' '.join(PAPER_DATA)})",
    )
    parser.add_argument(
        "--judge", default="exact_matching", metavar="NAME", help="VLMEvalKit's (default: exact_matching)"
    )
    add_paper_row(parser, "understanding")
    return parser.parse_args(argv)


def find_kit() -> Path | None:
    """The checkout: what VLMEVALKIT names, or where the installed package stands."""
    named = os.environ.get("VLMEVALKIT")
    spec = None if named else importlib.util.find_spec("vlmeval")
    folder = Path(named) if named else Path(spec.origin).parents[1] if spec and spec.origin else None
    return folder if folder and (folder / "run.py").is_file() else None


def needs(model: str, kit: Path | None) -> list[preflight.Need]:
    """VLMEvalKit, what it cannot do without in its environment, and the model."""
    how = "install VLMEvalKit's requirements"
    return [
        preflight.Need("VLMEvalKit (its run.py)", kit is not None, INSTALL),
        *(preflight.package(name, how) for name in ("torch", "transformers")),
        preflight.model_with_config(model, "a folder, or a hub id"),
    ]


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    kit = find_kit()
    preflight.require("VLMEvalKit", needs(args.model, kit))
    assert kit is not None
    sys.path.insert(0, str(kit))

    from common.models.weight_files import check_model_type, resolve_folder, weights_sha256
    from evals.answers import model_digest

    folder = resolve_folder(args.model)
    kind = check_model_type(folder, "llava", "internvl")
    weights = weights_sha256(folder)
    # run.py takes up former answers by the model's name alone.
    name = f"{folder.name}-{model_digest(folder, weights)[:12]}" + (f"-{args.limit}" if args.limit else "")
    started = time.time()
    from evals.vlmeval.cut_answers import CutAnswers
    from evals.vlmeval.models import register

    cut = CutAnswers(args.output / name / "cut_answers")
    register(name, str(folder), kind, cut)
    options = ["--data", *args.data, "--model", name, "--work-dir", str(args.output), "--judge", args.judge]
    asked = run_kit(kit, [*options, "--reuse"], args.limit)
    if os.environ.get("RANK", "0") == "0":
        report(
            args.output,
            args.data,
            asked,
            newest_run(args.output / name, started),
            cut={data: cut.count(data) for data in args.data},
            fingerprints=fingerprints(args.data, str(folder), kind),
            model={"source": args.model, "weights_sha256": weights},
            settings={"judge": args.judge, "limit": args.limit},
            paper_row=args.paper_row,
            seconds=time.time() - started,
        )


def fingerprints(names: list[str], source: str, kind: str) -> dict[str, str]:
    """Of the prompts of the paper's data sets, by data set; LLaVA's row is another tool's, and has none here."""
    if kind != "internvl":
        return {}
    from evals.vlmeval.protocol import set_fingerprint

    return {data: set_fingerprint(data, source) for data in names if data in PAPER_DATA}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Of a data set: questions in it, questions asked, and a digest of the latter (without their pictures)."""

    found: int
    asked: int
    sha256: str


def run_kit(kit: Path, options: list[str], limit: int | None) -> dict[str, Asked]:
    """VLMEvalKit's run.py in this process; returns what was asked of each data set.

    Args:
        limit: questions of each data set at most.
    """
    import vlmeval.dataset as kit_data

    asked: dict[str, Asked] = {}
    build = kit_data.build_dataset

    def build_limited(data: str, **options: Any) -> Any:
        dataset = build(data, **options)
        if dataset is not None:
            found = len(dataset.data)
            dataset.data = dataset.data.iloc[:limit]
            text = dataset.data.drop(columns="image", errors="ignore").to_csv(index=False)
            digest = hashlib.sha256(text.encode()).hexdigest()
            asked[data] = Asked(found=found, asked=len(dataset.data), sha256=digest)
        return dataset

    kit_data.build_dataset = build_limited
    before = sys.argv
    sys.argv = [str(kit / "run.py"), *options]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv, kit_data.build_dataset = before, build
    return asked


def newest_run(folder: Path, started: float) -> Path:
    """The folder of the run that has just ended. Raises `UserError` where it left none."""
    found = [path for path in folder.glob("*/status.json") if path.stat().st_mtime >= started]
    if not found:
        raise UserError(f"{folder}: VLMEvalKit ended without a status.json")
    return max(found, key=lambda path: path.stat().st_mtime).parent


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

    answered = {
        row["benchmark"]: row["infer_total"] - row["infer_failed"]
        for row in collect_run_benchmark_report(run)
    }
    scores = {data: read_run(run, data) for data in names}
    sets = {data: asked[data] for data in names}
    digest = hashlib.sha256("".join(one.sha256 for one in sets.values()).encode()).hexdigest()
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
            score_counts={name: answered[data] for data, found in scores.items() for name in found},
            paper_row=paper_row,
            fingerprints={
                name: fingerprints[data] for data in names if data in fingerprints for name in scores[data]
            },
            details={
                "run": str(run),
                "asked_sha256": {data: one.sha256 for data, one in sets.items()},
                "cut_answers": cut,
            },
        ),
        [
            *(
                f"{data}: {number} answers were cut off at their most tokens"
                for data, number in cut.items()
                if number
            ),
            f"all that VLMEvalKit wrote: {run}",
        ],
    )


if __name__ == "__main__":
    run_cli(main)
