"""Anything at all for every reader of data: does it work, or refuse in one line?

    python -m benchmarks.fuzz                          a thousand examples for each reader
    python -m benchmarks.fuzz tars images --examples 20000 --seed 3

Examples are drawn and made small by hypothesis (`benchmarks/fuzz_inputs.py`): sound files that were cut, overwritten,
doubled and spliced, and sound ones of odd make. What may come out of a reader are its samples, or an error of ours
whose message is one line. What else comes out is printed with the smallest example that was found, and the exit code is
1. A short, fixed set of them is a test.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from rich.console import Console
from rich.table import Table

from benchmarks.fuzz_readers import READERS, Reader
from common.command import described_parser, positive
from common.data.images import CorruptImage
from common.errors import UserError, run_cli
from understanding.conversation import BadSample

OURS = (UserError, CorruptImage, BadSample)


class SeveralLines(AssertionError):
    """An error of ours whose message is no single line."""


@dataclass(frozen=True)
class Outcome:
    """Of one reader: what came out how often, and the first error that is none of ours with its smallest example."""

    counts: Counter[str]
    seconds: float
    fault: BaseException | None = None
    example: str = ""


def outcome(reader: Reader, examples: int, seed: int | None = None) -> Outcome:
    """`examples` of one reader; without a seed always the same ones."""
    counts: Counter[str] = Counter()
    start, latest = time.perf_counter(), [""]

    def once(example: Any) -> None:
        latest[0] = repr(example)
        with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
            counts[tried(lambda: reader.read(example, Path(folder)))] += 1

    run: Callable[[], None] = hypothesis.settings(
        max_examples=examples,
        derandomize=seed is None,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(hypothesis.given(reader.inputs)(once))
    if seed is not None:
        run = hypothesis.seed(seed)(run)
    try:
        run()
    except Exception as fault:
        return Outcome(counts, time.perf_counter() - start, fault, latest[0])
    return Outcome(counts, time.perf_counter() - start)


def tried(read: Callable[[], int]) -> str:
    """`read`, or the kind of our error that it raised.

    Raises:
        SeveralLines: an error of ours that is no single line. Any other error passes.
    """
    try:
        return "read" if read() else "nothing in it"
    except OURS as error:
        if len(str(error).splitlines()) > 1:
            raise SeveralLines(repr(error)) from error
        return type(error).__name__


def main(argv: Sequence[str] | None = None) -> None:
    parser = described_parser(__doc__)
    parser.add_argument(
        "readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)} (default: all)"
    )
    parser.add_argument(
        "--examples", type=positive, default=1000, metavar="N", help="of each (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which examples (default: 0)")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.readers if name not in READERS]
    if unknown:
        raise UserError(f"{unknown[0]}: expected one of {', '.join(READERS)}")
    outcomes = run_all(arguments)
    table = Table("reader", "examples", "what came out", "seconds", box=None)
    for name, found in outcomes.items():
        told = ", ".join(f"{kind} {count:,}" for kind, count in found.counts.most_common())
        table.add_row(name, f"{found.counts.total():,}", told, f"{found.seconds:.0f}")
    Console(width=140).print(table)
    faults = {name: found for name, found in outcomes.items() if found.fault is not None}
    for name, found in faults.items():
        print(f"{name}: {type(found.fault).__name__}: {found.fault}\n  {found.example[:4000]}")
    print(f"{sum(found.counts.total() for found in outcomes.values()):,} examples, {len(faults)} faults")
    sys.exit(1 if faults else 0)


def run_all(arguments: argparse.Namespace) -> dict[str, Outcome]:
    """Each reader, its index and caches in a folder of their own."""
    outcomes = {}
    with tempfile.TemporaryDirectory(prefix="fuzz_cache_") as cache:
        os.environ["VQRAE_CACHE"] = cache
        for name in arguments.readers or READERS:
            outcomes[name] = outcome(READERS[name], arguments.examples, arguments.seed)
            print(f"{name}: {outcomes[name].fault or 'sound'}", file=sys.stderr, flush=True)
    return outcomes


if __name__ == "__main__":
    run_cli(main)
