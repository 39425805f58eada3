"""`python benchmarks/gpu.py`: the parts in order of their weight, within the minutes; then JSON and one table."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_parts.schedule import Part, run_parts
from common.command import described_parser
from common.errors import UserError, run_cli
from common.files import write_json

HERE = "benchmarks.gpu_parts"
MINUTES = 8
CHECK_MINUTES = 30
"""A check takes one or two on two idle cores, but DeepSpeed may build an operator first, and cores may be busy."""
REPORTING = 10.0  # seconds that are kept for the table
AT_ONCE_IN_CHECK = 2
TRAINERS = (
    "tests/tokenizer/test_train.py::test_a_run_leaves_the_documented_layout",
    "tests/tokenizer/test_train.py::test_stage_2_learns_everything_and_reports_its_terms",
    "tests/generation/test_train.py::test_a_run_leaves_the_documented_layout",
    "tests/generation/test_train.py::test_other_precisions_train_and_resume",
    "tests/understanding/test_train.py::test_pretraining_leaves_the_documented_layout",
    "tests/understanding/test_train.py::test_each_stage_trains_what_it_says",
)
"""Whole runs of the trainers, which take the GPU where there is one."""
PYTEST = ("-q", "-p", "no:cacheprovider")

# In order of their weight: what comes last is skipped first. `needs` and `limit` are guesses for one H100, start-up
# included, until a run there has shown better.
PARTS = (
    Part(
        name="hot_paths", module=f"{HERE}.hot_paths", check_words=("--check",), needs=30, limit=90, rows=True
    ),
    *(
        Part(
            name=f"tokenizer_{stage}",
            module=f"{HERE}.tokenizer_step",
            words=("--variant", stage),
            check_words=("--variant", stage, "--check"),
            needs=40,
            limit=90,
            rows=True,
        )
        for stage in ("stage1", "stage2")
    ),
    Part(
        name="generator",
        module=f"{HERE}.generator_step",
        check_words=("--check",),
        needs=35,
        limit=80,
        rows=True,
    ),
    Part(
        name="understanding",
        module=f"{HERE}.understanding_step",
        check_words=("--check",),
        needs=50,
        limit=110,
        rows=True,
    ),
    Part(
        name="trainers",
        module="pytest",
        words=(*PYTEST, *TRAINERS),
        check_words=(*PYTEST, TRAINERS[0]),
        needs=40,
        limit=90,
    ),
    Part(
        name="extract_codes",
        module="benchmarks.extract_codes",
        words=("--images", "256", "--batch-size", "32", "--workers", "8", "--precision", "bf16_autocast"),
        check_words=("--shape", "small", "--images", "4", "--batch-size", "2", "--rounds", "1"),
        needs=30,
        limit=80,
    ),
    Part(
        name="code_loss",
        module="benchmarks.code_loss",
        words=("--sequences", "8"),
        check_words=("--way", "codes", "--text", "8"),
        needs=30,
        limit=80,
    ),
    Part(
        name="generate",
        module="benchmarks.generate",
        words=("--images", "4", "--steps", "256", "--repeats", "1", "--output", "{out}/generate"),
        check_words=(
            *("--images", "1", "--steps", "10", "--repeats", "1", "--text-vocabulary", "1000"),
            *("--output", "{out}/generate"),
        ),
        needs=90,
        limit=160,
    ),
)


def main() -> None:
    options = arguments()
    parts = chosen(options.parts)
    started = time.monotonic()
    import torch

    from benchmarks.gpu_parts.report import print_table
    from common.training.run import versions

    if not torch.cuda.is_available() and not options.check:
        raise UserError(
            f"no GPU: torch {torch.__version__} sees none here; `--check` runs every part at tiny size on a CPU"
        )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # parts end with this process
    out = options.output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    minutes = options.minutes or (CHECK_MINUTES if options.check else MINUTES)
    deadline = started + 60 * minutes - REPORTING
    at_once = AT_ONCE_IN_CHECK if options.check else 1
    outcomes = []
    with contextlib.closing(run_parts(parts, out, deadline, options.check, at_once)) as coming:
        for outcome in coming:
            outcomes.append(outcome)
            said = f" ({outcome.reason})" if outcome.reason else ""
            print(
                f"{outcome.name}: {outcome.state}, {outcome.seconds:.0f} s{said}", file=sys.stderr, flush=True
            )
    facts = {
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        "device": next((outcome.device for outcome in outcomes if outcome.device), {}),
        "versions": {**versions(), "cuda": torch.version.cuda},
        "check": options.check,
        "seconds": time.monotonic() - started,
    }
    write_json(out / "results.json", {**facts, "parts": [asdict(outcome) for outcome in outcomes]})
    print_table(facts, outcomes)
    print(
        f"{facts['command']}: {facts['seconds']:.0f} s; {options.output / 'results.json'}, and a log for each part"
    )
    sys.exit(any(outcome.state == "failed" for outcome in outcomes))


def arguments() -> argparse.Namespace:
    parser = described_parser(
        __doc__, prog="gpu.py", epilog="parts: " + ", ".join(part.name for part in PARTS)
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks/gpu"), help="default: %(default)s"
    )
    parser.add_argument(
        "--minutes", type=float, help=f"for everything (default: {MINUTES}; with --check {CHECK_MINUTES})"
    )
    parser.add_argument("--parts", help="some of them, by name, with commas between (default: all)")
    parser.add_argument("--check", action="store_true", help="each part at tiny size, on a CPU too")
    return parser.parse_args()


def chosen(names: str | None) -> list[Part]:
    """The named parts, in their order here.

    Raises:
        UserError: a name that no part has.
    """
    known = [part.name for part in PARTS]
    wanted = known if names is None else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UserError(f"--parts: {name!r} is none of {', '.join(known)}")
    return [part for part in PARTS if part.name in wanted]


if __name__ == "__main__":
    run_cli(main)
