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
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cli
from evals import preflight
from evals.command import add_paper_row, build_parser, claim_output
from evals.vlmeval.report import PAPER_DATA, Asked, report

INSTALL = (
    "git clone VLMEvalKit (open-compass on GitHub), install its requirements in an environment of its own,\n"
)
INSTALL += "then: VLMEVALKIT=CHECKOUT PYTHON=ITS/bin/python bash evals/run_vlmevalkit.sh MODEL"


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
    claim_output(args)
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


if __name__ == "__main__":
    run_cli(main)
