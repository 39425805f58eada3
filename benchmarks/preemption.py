"""What a stop, a dead and a hanging process cost: seconds to the end, exit codes, and whether the run goes on equal.

    python -m benchmarks.preemption --output runs/preemption

Two processes of the tiny tokenizer of the tests on a CPU; the rows of the launchers start the real commands, which
import everything for a minute. Seconds count from the signal to the end of the last process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.forked_runs import ROOT, ForkedRun, ForkServer, free_port
from common.command import described_parser
from common.errors import UserError, run_cli

TESTS = ROOT / "tests"
BACKWARD = (
    "deepspeed.runtime.engine:DeepSpeedEngine.backward:3"  # two micro-steps a step: in the middle of step 2
)
MIDDLES = {
    "SIGTERM, accumulation, rank 1": (BACKWARD, 1, signal.SIGTERM),
    "SIGUSR1, evaluation, rank 0": (
        "common.metrics.reconstruction:ReconstructionMetrics.update:1",
        0,
        signal.SIGUSR1,
    ),
    "SIGTERM, save, rank 1": ("common.training.state:TrainingState.save:1", 1, signal.SIGTERM),
}
SILENT = 10  # seconds, here
RECIPE = ["batch.micro_size=1", "checkpoint.save_every=2", "steps=7", f"processes.silent_after={SILENT}"]
Row = tuple[str, str, str, str]


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a folder that is not there")
    parser.add_argument("--without-launchers", action="store_true", help="leave out the real commands")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise UserError(f"{arguments.output}: is there already; choose another folder, or remove it")
    arguments.output.mkdir(parents=True)
    table = Table("what", "seconds to the end", "exit codes", "then")
    with ForkServer(["preempt_jobs"], [TESTS]) as server:
        for row in forked_rows(server, arguments.output):
            table.add_row(*row)
        if not arguments.without_launchers:
            for row in launched_rows(server, arguments.output):
                table.add_row(*row)
    Console(width=140).print(table)


def forked_rows(server: ForkServer, folder: Path) -> Iterator[Row]:
    """Stops, a dead, a failing and a hanging process, without a launcher."""
    pictures = folder / "pictures"
    server.start("tiny:write_pictures", 1, folder / "pictures_logs", {"folder": pictures}).wait(600)

    def start(name: str, **more: Any) -> ForkedRun:
        shared = {"job": "tokenizer", "shelf": str(pictures), "output": str(folder / name)}
        arguments = {**shared, "overrides": RECIPE, **more}
        return server.start("preempt_jobs:train", 2, folder / f"{name}_logs", arguments)

    def timed(name: str, at: str, rank: int, number: int) -> tuple[ForkedRun, str, str]:
        run = start(name, at=at, rank=rank, signal_number=number, note=str(folder / f"{name}.time"))
        run.processes[0].join(600)
        codes = str(run.wait(0 if number == signal.SIGSTOP else 60))
        seconds = time.time() - float((folder / f"{name}.time").read_text())
        run.end()
        return run, f"{seconds:.1f}", codes

    whole = start("whole")
    whole.wait(600)
    for number, (told, (at, rank, sent)) in enumerate(MIDDLES.items()):
        name = f"stopped_{number}"
        _, seconds, codes = timed(name, at, rank, sent)
        record = json.loads((folder / name / "preempted").read_text())
        again = start(name)
        again.wait(600)
        equal = digest(again) == digest(whole) != ""
        yield told, seconds, codes, f"step {record['step']}; resumed: {'bit-equal' if equal else 'DIFFERS'}"
    for told, sent in (("rank 1 killed", signal.SIGKILL), ("rank 1 stopped (SIGSTOP)", signal.SIGSTOP)):
        run, seconds, codes = timed(told.split()[2], BACKWARD, 1, sent)
        yield told, seconds, codes, errors(run.said(0))
    run, seconds, codes = timed("fails", BACKWARD, 1, 0)
    yield (
        "rank 1 fails",
        seconds,
        codes,
        f"rank 0: {errors(run.said(0)) or 'quiet'}; rank 1: {errors(run.said(1))}",
    )


def launched_rows(server: ForkServer, folder: Path) -> Iterator[Row]:
    """The same under launchers: SIGTERM to each, a rank that is killed, and restarts."""
    recipe = folder / "recipe.yaml"
    inputs = {"path": recipe, "pictures": folder / "pictures", "overrides": [*RECIPE, "steps=4000"]}
    server.start("preempt_jobs:write_recipe", 1, folder / "recipe_logs", inputs).wait(600)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={free_port()}",
    ]
    world = "eyJsb2NhbGhvc3QiOiBbMCwgMV19"  # base64 of {"localhost": [0, 1]}
    deepspeed = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}"]
    deepspeed += [f"--master_port={free_port()}", "--master_addr=127.0.0.1"]
    for name, launcher in (("torchrun", torchrun), ("deepspeed.launcher.launch", deepspeed)):
        output = folder / f"{name}_stopped"
        process = launch(launcher, recipe, output)
        wait_for_step(output, 2)
        began = time.time()
        process.terminate()
        code = process.wait(300)
        record = json.loads((output / "preempted").read_text())
        yield (
            f"SIGTERM to {name}",
            f"{time.time() - began:.1f}",
            str(code),
            f"stopped at step {record['step']}",
        )

        output = folder / f"{name}_killed"
        process = launch(launcher, recipe, output)
        wait_for_step(output, 2)
        began = time.time()
        os.kill(rank_of(process.pid, 1), signal.SIGKILL)
        code = process.wait(300)
        said = errors(Path(f"{output}.log").read_text(errors="replace"))
        yield f"rank 1 killed, {name}", f"{time.time() - began:.1f}", str(code), said

    output = folder / "restarted"
    process = launch([*torchrun, "--max-restarts=1"], recipe, output, "steps=60")
    wait_for_step(output, 10)
    began = time.time()
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    code = process.wait(600)
    said = Path(f"{output}.log").read_text(errors="replace")
    resumed = [line.rpartition(": ")[2].strip() for line in said.splitlines() if "resuming from step" in line]
    yield (
        "rank 1 killed, torchrun --max-restarts=1",
        f"{time.time() - began:.1f}",
        str(code),
        "; ".join(resumed),
    )


def launch(launcher: list[str], recipe: Path, output: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [*launcher, "tokenizer/train.py", "--config", str(recipe), f"output={output}", *overrides]
    with Path(f"{output}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def wait_for_step(output: Path, step: int) -> None:
    """Until a checkpoint of `step` or later is there."""
    end = time.time() + 600
    while time.time() < end:
        pointer = output / "checkpoints" / "latest"
        if pointer.is_file() and int(pointer.read_text().strip().removeprefix("step_") or 0) >= step:
            return
        time.sleep(0.2)
    raise TimeoutError(Path(f"{output}.log").read_text(errors="replace")[-2000:])


def rank_of(launcher: int, rank: int) -> int:
    """The process id of a rank below a launcher."""
    import psutil

    for child in psutil.Process(launcher).children(recursive=True):
        if child.environ().get("RANK") == str(rank) and "train.py" in " ".join(child.cmdline()):
            return child.pid
    raise ProcessLookupError(f"rank {rank}")


def errors(said: str) -> str:
    """The lines of ours, and how many tracebacks stand beside them."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    tracebacks = said.count("Traceback (most recent call last)")
    return "; ".join(lines) + (f" (and {tracebacks} tracebacks)" if tracebacks else "")


def digest(run: ForkedRun) -> str:
    return ([line for line in run.said(0).splitlines() if line.startswith("digest ")] or [""])[-1]


if __name__ == "__main__":
    run_cli(main)
