"""What the benchmarks share: a process of its own for each measurement, memory, bandwidth, results and tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.command import described_parser
from common.errors import UserError
from common.files import write_json

ROOT = Path(__file__).resolve().parent.parent


def recipe_parser(description: str | None, recipe: Path, photos: str) -> argparse.ArgumentParser:
    """For what trains by a recipe on photographs: --photos, which are `photos`; --output; overrides of the recipe."""
    parser = described_parser(description)
    parser.add_argument("--photos", type=Path, required=True, help=photos)
    output = Path("runs", "benchmarks", recipe.stem)
    parser.add_argument("--output", type=Path, default=output, help="default: %(default)s")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help=f"fields of {recipe.name} to change"
    )
    return parser


def in_own_process(module: str, *words: object) -> Any:
    """What `python -m module WORDS` prints last, which is JSON; its peak of memory is its own.

    Raises:
        UserError: it failed; with the last line that it said.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{module} {' '.join(map(str, words))}: {said}")
    return json.loads(done.stdout.splitlines()[-1])


def compare_processes(script: str, arguments: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """Run an evaluation on a CPU in one process and in two, and print both scores of each kind; the folders they left.

    Args:
        script: of evals/, which is given `arguments`.

    Raises:
        UserError: the scores differ.
    """
    from evals.results import read

    one, two = (folder / str(processes) for processes in (1, 2))
    for processes, output in enumerate((one, two), 1):
        command = [
            "bash",
            str(ROOT / "evals" / script),
            *arguments,
            "--device",
            "cpu",
            "--output",
            str(output),
        ]
        environment = {**os.environ, "GPUS": str(processes)}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    alone, shared = read(one), read(two)
    for name, score in alone["scores"].items():
        print(f"{name:30} {score!r:20} {shared['scores'][name]!r:20}")
    print(f"{alone['seconds']:.0f} s in one process, {shared['seconds']:.0f} s in two")
    if alone["scores"] != shared["scores"]:
        raise UserError("one process and two differ")
    return one, two


def restart_peak() -> float:
    """Bytes that this process holds now (on a GPU: there); `peak_memory` counts from here on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak may lie before
        Path("/proc/self/clear_refs").write_text("5")
    import psutil

    return float(psutil.Process().memory_info().rss)


def peak_memory() -> float:
    """The most bytes held since `restart_peak`."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024.0 * int(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def wait() -> None:
    """Until the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bandwidth() -> float:
    """GB/s at which a reduction reads memory far larger than any cache; the best of several."""
    import torch

    block = torch.ones(1 << 28, device="cuda" if torch.cuda.is_available() else "cpu")  # 1 GB
    rates = []
    for _ in range(6):
        wait()
        started = time.perf_counter()
        block.sum()
        wait()
        rates.append(block.numel() * block.element_size() / 1e9 / (time.perf_counter() - started))
    return max(rates)


def device_name() -> str:
    """The GPU's name, or how many threads the processor takes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def report(
    output: Path, results: dict[str, Any], title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Write `output`/results.json with the versions it was made with, and print a table.

    Args:
        headings: of the columns, of which the first says what a row is about.
    """
    from rich.console import Console
    from rich.table import Table

    from common.training.run import versions

    write_json(output / "results.json", {**results, "versions": versions()})
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(output / "results.json")
