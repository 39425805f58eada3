"""The lives of one run: started, watched, and killed, by forks or by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.forked_runs import ROOT, ForkedRun, ForkServer
from benchmarks.killing.evidence import WORLD, ledger_of
from common.errors import UserError

LIFE = 300.0  # seconds until a life that neither ends nor is killed counts as hanging
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--nproc-per-node", str(WORLD), "--max-restarts", "9"),
)


class Lives:
    """Starts and kills the processes of one run, by forks or by torchrun."""

    def __init__(self, job: str, world: Path, run: Path, server: ForkServer | None) -> None:
        self.job, self.run, self.server, self.number = job, run, server, 0
        self.recipe = world / f"{job}.yaml"
        self.forked: ForkedRun | None = None
        self.launched: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = {"job": self.job, "recipe": str(self.recipe), "output": str(self.run)}
        if self.server is not None:
            self.forked = self.server.start(
                "benchmarks.killing.jobs:run", WORLD, self.run.with_name(f"{self.run.name}_logs"), arguments,
                {"CHAOS_LIFE": str(self.number)},
            )  # fmt: skip
        elif self.launched is None:
            with self.run.with_name(f"{self.run.name}.log").open("ab") as log:
                self.launched = subprocess.Popen(
                    [*TORCHRUN, "-m", "benchmarks.killing.jobs", *arguments.values()],
                    cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
        self.number += 1

    def pids(self) -> list[int]:
        """Of this life's ranks; fewer than all where some have not begun."""
        if self.forked is not None:
            return self.forked.pids
        found = []
        for rank in range(WORLD):
            births = [entry for entry in self._entries(rank) if entry.get("life") == self.number - 1]
            found += [entry["pid"] for entry in births]
        return found

    def ended(self) -> bool:
        if self.forked is not None:
            return not any(process.is_alive() for process in self.forked.processes)
        assert self.launched is not None
        return self.launched.poll() is not None

    def given(self) -> int:
        """Micro-batches that rank 0 was given in this life."""
        entries = self._entries(0)
        births = [place for place, entry in enumerate(entries) if "life" in entry]
        if not births or entries[births[-1]]["life"] != self.number - 1:
            return -1
        return sum("samples" in entry for entry in entries[births[-1] :])

    def kill(self, ranks: list[int], then: float) -> None:
        """Kill -9; the others follow, as a launcher sees to it. torchrun does that itself, and starts anew."""
        pids = self.pids()
        for rank in ranks:
            if rank < len(pids):
                with suppress(ProcessLookupError):
                    os.kill(pids[rank], signal.SIGKILL)
        if self.forked is not None:
            time.sleep(then)
            self.forked.end()

    def end(self) -> None:
        if self.forked is not None:
            self.forked.end()
        elif self.launched is not None and self.launched.poll() is None:
            os.killpg(self.launched.pid, signal.SIGKILL)

    def _entries(self, rank: int) -> list[dict[str, Any]]:
        ledger = ledger_of(self.run, rank)
        if not ledger.is_file():
            return []
        lines = ledger.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]


def partials(run: Path) -> set[str]:
    with suppress(OSError):
        return {path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".step_")}
    return set()


def wait_for(lives: Lives, moment: Callable[[], bool], poll: float = 0.002) -> bool:
    """Whether the moment came before the life ended.

    Raises:
        UserError: neither did.
    """
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        if moment():
            return True
        if lives.ended():
            return False
        time.sleep(poll)
    lives.end()
    raise UserError(f"{lives.run}: life {lives.number} hangs; see its logs")
