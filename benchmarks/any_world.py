"""Another number of processes in the middle of a run: 2 -> 1 -> 2, for each trainer and each ZeRO stage it allows.

    python -m benchmarks.any_world [--only tokenizer]

The tiny recipes of the tests train for six steps, once with two processes throughout, once with two, one, two. Printed
for each kind of engine: samples read in another step, twice or never (the ledger, which must be exact), and how far
losses are apart, relative, at most: rounding, since sums are taken in another order. Where an engine reduces gradients
in bfloat16 (`bf16_autocast` and `bf16` above ZeRO-0) it rounds each share of a sum to 8 bits. "two, two" is a
resumption with as many processes, which must be bit-equal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.forked_runs import ROOT, ForkServer

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


class Runs:
    """Parts of runs, each in processes of its own."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.number = 0
        self._do("write_shelves", 1, folder=str(folder))

    def part(self, case: Case, run: Path, world: int, stop_after: int | None = None) -> Part:
        # As many samples meet in a forward pass of all processes.
        fields = ["checkpoint.save_every=2", f"batch.micro_size={2 // world}", *case.overrides]
        notes = self.folder / "notes" / str(self.number)
        notes.mkdir(parents=True)
        self._do(
            "leg",
            world,
            base=case.base,
            overrides=fields,
            notes=str(notes),
            trainer=case.trainer,
            shelf=str(self.folder / case.trainer),
            output=str(run),
            stop_after=stop_after,
        )
        ranks = [json.loads((notes / f"{rank}.json").read_text()) for rank in range(world)]
        read = Counter((step, sample) for rank in ranks for step, sample in rank["read"])
        return Part(read, ranks[0]["losses"], ranks[0]["weights"])

    def _do(self, job: str, world: int, **inputs: object) -> None:
        self.number += 1
        run = self.server.start(
            f"any_world_jobs:{job}", world, self.folder / "said" / str(self.number), inputs
        )
        codes = run.wait(PATIENCE)
        if any(code != 0 for code in codes):
            raise SystemExit(
                "\n".join([f"{job}: {codes}", *(run.said(rank)[-2000:] for rank in range(world))])
            )


def _row(runs: Runs, case: Case, folder: Path) -> str:
    whole = runs.part(case, folder / "whole", 2)
    equal = [runs.part(case, folder / "equal", 2, 2), runs.part(case, folder / "equal", 2)]
    other = [
        runs.part(case, folder / "other", 2, 2),
        runs.part(case, folder / "other", 1, 4),
        runs.part(case, folder / "other", 2),
    ]
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


if __name__ == "__main__":
    main()
