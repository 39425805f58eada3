"""Runs of several processes that start in a moment, are signalled and killed, and leave their output in files.

Importing torch, transformers and DeepSpeed costs a process 10 to 20 s. Here one process does it, starts nothing, and is
forked for every rank of every run (`multiprocessing`'s fork server).

    with ForkServer(["tokenizer.train"]) as server:
        run = server.start("benchmarks.some_jobs:train_tiny", world=2, folder=Path("out"), arguments={"steps": 40})
        run.signal(signal.SIGKILL, ranks=[1])
        codes = run.wait(60)          # [1, -9]
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class ForkServer:
    """The process that has imported everything. One in a process, since `multiprocessing` keeps one.

    Args:
        preload: modules to import, and with them what they import; what cannot be imported is told by the first run.
        folders: where else than in the project modules are looked for.
    """

    def __init__(self, preload: Sequence[str], folders: Sequence[Path] = ()) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._path = [str(folder) for folder in (*folders, ROOT)]
        self._runs: list[ForkedRun] = []

    def start(
        self,
        job: str,
        world: int,
        folder: Path,
        arguments: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ForkedRun:
        """`job`, as `module:function`, called with `arguments` in each of `world` processes of one process group.

        Args:
            folder: gets what each rank says, as `rank0.log`, ...; said again, it is appended.
            arguments: simple values; they are pickled.
            environment: variables to set beside those of a launcher.
        """
        folder.mkdir(parents=True, exist_ok=True)
        launcher = {
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            **(environment or {}),
        }
        logs = [folder / f"rank{rank}.log" for rank in range(world)]
        processes = []
        # What the server inherits when its first process starts it; later it knows no other environment.
        found = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([*self._path, *filter(None, [found])])
        try:
            for rank, log in enumerate(logs):
                variables = {**launcher, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                inputs = (job, dict(arguments or {}), variables, str(log), self._path)
                process = self._context.Process(target=_run, args=inputs)
                process.start()
                processes.append(process)
        finally:
            os.environ.pop("PYTHONPATH")
            if found is not None:
                os.environ["PYTHONPATH"] = found
        run = ForkedRun(processes, logs)
        self._runs.append(run)
        return run

    def close(self) -> None:
        """Ends what still runs."""
        for run in self._runs:
            run.end()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class ForkedRun:
    """The processes of one run, in rank order, and what they said."""

    def __init__(self, processes: list[Any], logs: list[Path]) -> None:
        self.processes, self.logs = processes, logs

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def signal(self, number: int, ranks: Iterable[int] | None = None) -> None:
        """Sends a signal to some ranks, or to all; those that have ended are passed over."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            if self.processes[rank].is_alive():
                with suppress(ProcessLookupError):
                    os.kill(self.pids[rank], number)

    def wait(self, seconds: float) -> list[int | None]:
        """Exit codes (-9: killed) once all have ended; None for those that run on after `seconds`."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def said(self, rank: int) -> str:
        """What a rank has written to stdout and stderr so far."""
        return self.logs[rank].read_text(errors="replace") if self.logs[rank].is_file() else ""

    def end(self) -> None:
        """Kills what still runs, a rank's own children included."""
        for process in self.processes:
            if process.is_alive():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                with suppress(ProcessLookupError):  # before it had its own group
                    os.kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(
    job: str, arguments: dict[str, Any], variables: dict[str, str], log: str, folders: list[str]
) -> None:
    """The body of one rank."""
    sys.path[:0] = folders  # the caller's path has replaced the server's
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing runs on when the server is gone
    os.setsid()  # as torchrun does: a signal to the group reaches a rank's loading processes too
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    for name in ("stdout", "stderr"):  # the server's may be closed, or another's
        setattr(sys, name, open(1 if name == "stdout" else 2, "w", buffering=1, closefd=False))  # noqa: SIM115
    os.environ.update(variables)
    module, function = job.split(":")
    getattr(importlib.import_module(module), function)(**arguments)
