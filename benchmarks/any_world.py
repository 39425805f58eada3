"""Another number of processes in the middle of a run: 2 -> 1 -> 2, for each trainer and each ZeRO stage it allows.

    python -m benchmarks.any_world [--only tokenizer]

The tiny recipes of the tests train for six steps, once with two processes throughout, once with two, one, two. Printed
for each kind of engine: samples read in another step, twice or never (the ledger, which must be exact), and how far
losses are apart, relative, at most: rounding, since sums are taken in another order. "two, two" is a resumption with as
many processes, which must be bit-equal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.forked_runs import ROOT, ForkServer
from common.files import write_json

TESTS = ROOT / "tests"
PATIENCE = 600.0
"""Seconds for a part of a run."""


class Case(NamedTuple):
    """A kind of engine: `base` is the list in tests/tiny.py that its recipe starts from."""

    trainer: str
    engine: str
    base: str | None
    overrides: tuple[str, ...]


def cases() -> Iterator[Case]:
    for stage in (0, 1, 2):
        for precision in ("fp32", "bf16_autocast"):
            name = f"stage 2, {_engine(stage, precision)}"
            yield Case("tokenizer", name, "STAGE_2", _fields(stage, precision))
    yield Case("tokenizer", "stage 1, ZeRO-1, fp32", None, _fields(1, "fp32"))
    yield Case("tokenizer", "stage 2, ZeRO-2, fp32, offload", "STAGE_2", _fields(2, "fp32", "cpu"))
    muon = ("optimizer.muon={lr: 0.01}", "optimizer.adamw.max_grad_norm=null")
    for stage in (0, 1, 2):
        for precision in ("fp32", "bf16"):
            yield Case("generation", _engine(stage, precision), None, _fields(stage, precision))
        name = f"{_engine(stage, 'bf16')}, Muon"
        yield Case("generation", name, None, (*muon, *_fields(stage, "bf16")))
    yield Case("generation", "ZeRO-2, bf16, offload", None, _fields(2, "bf16", "cpu"))
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            name = f"tuning, {_engine(stage, precision)}"
            yield Case("understanding", name, "FINE_TUNING", _fields(stage, precision))
    lora = "model.lora={rank: 4, alpha: 8, dropout: 0.1}"
    tuning = (
        ("tuning, ZeRO-3, bf16, offload", _fields(3, "bf16", "cpu")),
        ("LoRA with dropout, ZeRO-2, fp32", (lora, *_fields(2, "fp32"))),
        ("LoRA with dropout, ZeRO-3, bf16", (lora, *_fields(3, "bf16"))),
    )
    for name, overrides in tuning:
        yield Case("understanding", name, "FINE_TUNING", overrides)
    yield Case("understanding", "pretraining, ZeRO-2, fp32", None, _fields(2, "fp32"))


def _engine(stage: int, precision: str) -> str:
    return f"ZeRO-{stage}, {precision}"


def _fields(stage: int, precision: str, offload: str = "none") -> tuple[str, ...]:
    return (f"engine.zero_stage={stage}", f"engine.precision={precision}", f"engine.offload={offload}")


class Part(NamedTuple):
    """Of a run: the samples that it read, in which step; the loss of each step so far, and a digest of the weights."""

    read: Counter[tuple[int, int]]
    losses: dict[str, float]
    weights: str


class Workers:
    """Processes of one process group, which carry out orders one after the other."""

    def __init__(self, server: ForkServer, world: int, folder: Path) -> None:
        self.world, self.folder, self.number = world, folder, 0
        folder.mkdir()
        self.run = server.start("any_world_jobs:serve", world, folder, {"orders": str(folder)})

    def do(self, job: str, **inputs: object) -> list[Any]:
        """What each rank found; ends the benchmark where one failed."""
        write_json(self.folder / f"{self.number}.json", [job, inputs])
        answers = [self.folder / f"{self.number}_rank{rank}.json" for rank in range(self.world)]
        self.number += 1
        deadline = time.monotonic() + PATIENCE
        while not all(answer.is_file() for answer in answers):
            if time.monotonic() > deadline or self.run.wait(0.05) != [None] * self.world:
                raise SystemExit(
                    "\n".join([f"{inputs}", *(self.run.said(rank)[-2000:] for rank in range(self.world))])
                )
        found = [json.loads(answer.read_text()) for answer in answers]
        for rank, answer in enumerate(found):
            if "failed" in answer:
                raise SystemExit(f"{inputs}\nrank {rank}: {answer['failed']}")
        return [answer["found"] for answer in found]


class Runs:
    """Parts of runs, on two ranks or on one."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.folder = folder
        self.workers = {world: Workers(server, world, folder / f"world_{world}") for world in (1, 2)}
        self.workers[1].do("write_shelves", folder=str(folder))

    def part(self, case: Case, run: Path, world: int, stop_after: int | None = None) -> Part:
        # As many samples meet in a forward pass of all processes.
        fields = ["checkpoint.save_every=2", f"batch.micro_size={2 // world}", *case.overrides]
        ranks = self.workers[world].do(
            "leg",
            base=case.base,
            overrides=fields,
            trainer=case.trainer,
            shelf=str(self.folder / case.trainer),
            output=str(run),
            stop_after=stop_after,
        )
        read = Counter((step, sample) for rank in ranks for step, sample in rank["read"])
        return Part(read, ranks[0]["losses"], ranks[0]["weights"])


def _row(runs: Runs, case: Case, folder: Path) -> str:
    whole = runs.part(case, folder / "whole", 2)
    first = runs.part(case, folder / "other", 2, 2)
    shutil.copytree(folder / "other", folder / "equal")
    equal = [first, runs.part(case, folder / "equal", 2)]
    other = [first, runs.part(case, folder / "other", 1, 4), runs.part(case, folder / "other", 2)]
    amiss = 0
    for parts in (equal, other):
        read: Counter[tuple[int, int]] = sum((part.read for part in parts), Counter())
        amiss += sum(((read - whole.read) + (whole.read - read)).values())
    apart = max(
        abs(loss - whole.losses[step]) / whole.losses[step] for step, loss in other[-1].losses.items()
    )
    same = equal[-1].losses.items() <= whole.losses.items() and equal[-1].weights == whole.weights
    bit_equal = "yes" if same else "NO"
    return f"| {case.trainer} | {case.engine} | {amiss} | {apart:.1e} | {bit_equal} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a part of the name of a trainer or of a kind of engine")
    wanted = parser.parse_args().only
    preload = ["any_world_jobs"]
    with tempfile.TemporaryDirectory() as temporary, ForkServer(preload, [TESTS]) as server:
        runs = Runs(server, Path(temporary))
        print("| trainer | engine | samples amiss | losses apart, at most | two, two: bit-equal |")
        print("|---|---|---|---|---|", flush=True)
        for number, case in enumerate(cases()):
            if wanted in f"{case.trainer} {case.engine}":
                print(_row(runs, case, runs.folder / f"case_{number}"), flush=True)
        for workers in runs.workers.values():
            write_json(workers.folder / f"{workers.number}.json", [None, {}])
            workers.run.wait(PATIENCE)


if __name__ == "__main__":
    main()
