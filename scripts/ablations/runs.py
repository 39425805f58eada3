"""Many trainings of the tokenizer that differ in a few fields, each followed by the evaluation of reconstructions.

Every run goes through the commands that a user would give: `tokenizer/train.py`, then `evals/run_reconstruction.sh`.
What is finished is not done again, so a call that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.command import described_parser, positive
from common.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "tokenizer" / "recipes"
LAST_LINES = 12  # of a failed run's log


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Args:
        name: of its folder. overrides: fields of the recipe, `key.path=value`.
        scored: whether its reconstructions are evaluated.
    """

    name: str
    overrides: tuple[str, ...]
    scored: bool = True


def build_parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """The options that all ablations share."""
    parser = described_parser(description)
    parser.add_argument(
        "--recipe", type=Path, default=RECIPES / "demo_stage1.yaml", help="default: the demo's"
    )
    parser.add_argument("--images", default="runs/demo/world/val", metavar="DIR", help="held-out pictures")
    parser.add_argument("--out", type=Path, default=Path(out), help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=300, help="of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=2, help="runs of each row (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument(
        "--launcher", default=sys.executable, help='starts the training, as in "deepspeed" (default: Python)'
    )
    parser.add_argument(
        "--score",
        default="--skip-fid --skip-lpips",
        help="options of run_reconstruction.sh (default: %(default)s)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="fields to change in all runs")
    return parser


def carry_out(chains: Iterable[Sequence[Run]], options: argparse.Namespace) -> None:
    """Train and evaluate all runs, `options.jobs` chains at a time; the runs of a chain one after the other.

    Raises:
        UserError: runs failed; named with the end of their logs. The others are finished.
    """
    waiting = [[run for run in chain if not _finished(run, options.out)] for chain in chains]
    failures: list[str] = []
    with tqdm(total=sum(map(len, waiting)), desc=options.out.name, unit="run") as bar:

        def work(chain: Sequence[Run]) -> None:
            for run in chain:
                failure = _carry_out_one(run, options)
                bar.update()
                if failure:
                    failures.append(failure)
                    return  # what would start from it cannot

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(work, waiting))
    if failures:
        raise UserError("\n".join(failures))


def scores(run: Run, out: Path) -> dict[str, float]:
    """The scores of a finished run's reconstructions."""
    path = out / run.name / "reconstruction" / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["scores"]


def _carry_out_one(run: Run, options: argparse.Namespace) -> str | None:
    """What failed, if something did."""
    folder = options.out / run.name
    fields = (f"output={folder}", *options.overrides, *run.overrides)
    train = [*options.launcher.split(), "tokenizer/train.py", "--config", str(options.recipe), *fields]
    score = ["bash", "evals/run_reconstruction.sh", str(folder / "model"), "--images", options.images]
    score += ["--output", str(folder / "reconstruction"), *options.score.split()]
    log = options.out / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ if options.jobs == 1 else {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as file:
        for command in (train, score) if run.scored else (train,):
            ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
            if ended.returncode:
                last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
                return "\n".join([f"{log}: exit code {ended.returncode}", *last])
    return None


def _finished(run: Run, out: Path) -> bool:
    folder = out / run.name
    return (folder / "reconstruction" / "results.json" if run.scored else folder / "model").exists()
