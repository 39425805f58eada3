"""What a tokenizer that keeps details and post-training each bring, and both together, on the demo's world.

    python -m benchmarks.better_pictures --demo runs/demo --deep runs/demo_deep/generator

Four arms: the generator as it is, on the last layer's codes (`neither`) and on those of several layers (`deep`), and
each after `post_training/recipes/demo_grpo.yaml` with three seeds. All draw the held-out prompts, which no caption and
no reward prompt repeats, with the same noise, guided as the demo is and without guidance. Runs and figures stand in
DIR, and a call that was stopped goes on where it was. Ends with a table in Markdown, and with what holds of what was to
be shown; both are in DIR/results.json too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import ROOT
from benchmarks.picture_scores import OF, measure
from benchmarks.picture_tables import claims, markdown
from common.command import described_parser, positive
from common.errors import UserError, run_cli
from common.files import write_json, write_text
from common.text import parse_json, read_lines

RECIPE = ROOT / "post_training" / "recipes" / "demo_grpo.yaml"
ARMS = ("last", "deep")
SCALES = (1.5, 1.0)  # as the demo draws, and without guidance


@dataclass(frozen=True)
class Generator:
    """One that is measured: `arm` of ARMS, and the `seed` of its post-training; None: before any."""

    arm: str
    seed: int | None
    folder: Path

    @property
    def name(self) -> str:
        return self.arm if self.seed is None else f"{self.arm}_grpo_{self.seed}"


def post_train(run: Path, arm: str, seed: int, demo: Path, out: Path, steps: int | None = None) -> Path:
    """The folder that the demo's recipe leaves for the generator of `run`; what is there is not made again.

    Args:
        steps: None: the recipe's.

    Raises:
        UserError: the training failed.
    """
    folder = out / f"{arm}_grpo_{seed}"
    if (folder / "model").is_dir():
        return folder / "model"
    recipe = out / "recipes" / f"{folder.name}.yaml"
    stated = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    trained = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    stated |= {"output": str(folder), "seed": seed, "init_from": str(run / "model")}
    stated["steps"] = steps or stated["steps"]
    stated["model"]["tokenizer"] = trained["model"]["tokenizer"]
    stated["prompts"]["file"] = str(demo / "world" / "reward_prompts.jsonl")
    stated["held_out"]["prompts"] = str(demo / "world" / "prompts.jsonl")
    stated["held_out"]["judge"]["detector"] = str(demo / "judge")
    write_text(recipe, yaml.safe_dump(stated, sort_keys=False))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *words, str(ROOT / "post_training" / "train.py"), "--config", str(recipe)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    with (out / "seconds.jsonl").open("a", encoding="utf-8") as file:  # a call that was stopped counts, too
        file.write(json.dumps({folder.name: time.perf_counter() - start}) + "\n")
    if done.returncode:
        raise UserError(f"{folder}: post_training/train.py ended with {done.returncode}")
    return folder / "model"


def generators(
    runs: dict[str, Path], seeds: Sequence[int], demo: Path, out: Path, steps: int | None
) -> Iterator[Generator]:
    """Each as soon as it is there."""
    for arm, run in runs.items():
        yield Generator(arm, None, run / "model")
    for seed in seeds:
        for arm, run in runs.items():
            yield Generator(arm, seed, post_train(run, arm, seed, demo, out, steps))


def seconds(out: Path) -> dict[str, float]:
    """Of each training, over all calls; imports and the saving of its model counted."""
    found: dict[str, float] = {}
    path = out / "seconds.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        for name, value in json.loads(line).items():
            found[name] = found.get(name, 0.0) + value
    return found


def records(path: Path) -> list[dict[str, Any]]:
    """Raises `UserError` for a file that is none, or a line that is no JSON."""
    return [dict(parse_json(line, f"{path}: line {number}")) for number, line in read_lines(path)]


def check_held_out(world: Path) -> list[dict[str, Any]]:
    """The prompts that are measured; UserError if a caption or a reward prompt repeats one."""
    prompts = records(world / "prompts.jsonl")
    for name, key in (("reward_prompts.jsonl", "prompt"), ("captions.jsonl", "caption")):
        others = {record[key] for record in records(world / name)}
        if shared := [one["prompt"] for one in prompts if one["prompt"] in others]:
            raise UserError(f"{world / name}: repeats {shared[0]!r}, which is to be measured")
    return prompts


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    parser.add_argument("--deep", type=Path, help="run of generation on the codes of several layers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--steps", type=positive, help="of post-training (default: the recipe's)")
    parser.add_argument("-n", type=positive, default=16, help="pictures of each prompt (default: 16)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/better_pictures"), metavar="DIR")
    options = parser.parse_args()
    if options.n % OF:
        raise UserError(f"-n: expected a multiple of {OF}, found {options.n}")
    world, judge = options.demo / "world", options.demo / "judge"
    prompts = check_held_out(world)
    runs = {"last": options.demo / "generator"} | ({"deep": options.deep} if options.deep else {})
    for run in runs.values():
        if not (run / "model").is_dir():
            raise UserError(f"{run}: expected a finished run of generation")

    from evals.detectors.opening import open_detector

    detectors = tuple(open_detector(name, "", "cpu") for name in ("world", str(judge)))
    cells: dict[str, dict[str, Any]] = {}
    for one in generators(runs, options.seeds, options.demo, options.out, options.steps):
        for scale in SCALES:
            path = options.out / "cells" / f"{one.name}_{scale:g}.json"
            if not path.is_file():
                cell = measure(one.folder, prompts, detectors, options.n, scale)  # type: ignore[arg-type]
                write_json(path, {"arm": one.arm, "seed": one.seed} | cell)
            cells[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            if cells[path.stem]["pictures"] != options.n:
                raise UserError(
                    f"{path}: has {cells[path.stem]['pictures']} pictures of each prompt; another --out"
                )

    accuracy = json.loads((judge / "judge.json").read_text(encoding="utf-8"))["accuracy"]
    took = seconds(options.out)
    table, holds = markdown(list(cells.values())), claims(list(cells.values()), accuracy, took)
    write_json(options.out / "results.json", {"table": table, "claims": holds, "seconds": took})
    print(table)
    print("\n".join(f"- {'holds' if good else 'does not hold'}: {what}" for what, good in holds.items()))


if __name__ == "__main__":
    run_cli(main)
