"""Parts within a budget of time: each in a process of its own, so that a crash, a hang or full memory costs that part
alone and the next one finds the GPU's memory free."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = 3
"""Exit status of a part whose batch does not fit; it is started anew with a smaller one."""
SHRINKS = (1, 2, 4)
LAST_LINES = 40
POLL = 0.2  # seconds
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""In a check: parts share the cores."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One module that is run by `python -m`.

    Args:
        words, check_words: its arguments, at full and at tiny size; `{out}` stands for the folder of results.
        needs: seconds without which it is not started.
        limit: seconds after which it is ended; in a check, which measures nothing, only the whole has one.
        rows: whether it takes `--result FILE` and `--shrink N` and writes its rows there (see `part`); else what it
            prints is its result.
    """

    name: str
    module: str
    words: tuple[str, ...] = ()
    check_words: tuple[str, ...] = ()
    needs: float
    limit: float
    rows: bool = False

    def command(self, out: Path, check: bool, shrink: int) -> list[str]:
        words = [word.format(out=out) for word in (self.check_words if check else self.words)]
        if self.rows:
            words += ["--result", str(self.result(out)), "--shrink", str(shrink)]
        return [sys.executable, "-m", self.module, *words]

    def result(self, out: Path) -> Path:
        return out / f"{self.name}.json"


@dataclass
class Outcome:
    """What came of a part; `reason`, one line, where it was not measured. `lines` are what it printed."""

    name: str
    state: Literal["measured", "failed", "skipped"]
    reason: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    device: dict[str, Any] = field(default_factory=dict)


def run_parts(
    parts: Sequence[Part], out: Path, deadline: float, check: bool = False, at_once: int = 1
) -> Generator[Outcome]:
    """The outcome of each part, in their order; a part is skipped if the time that is left is less than it needs.

    Args:
        deadline: of `time.monotonic()`.
        at_once: processes side by side; more than one makes every time worthless.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(run_part, part, out, deadline, check, stop) for part in parts]
        try:
            for future in running:
                yield future.result()
        finally:  # an interrupt, where not all is done
            stop.set()


def run_part(
    part: Part, out: Path, deadline: float, check: bool = False, stop: threading.Event | None = None
) -> Outcome:
    """Run one part, again with half the batch and half of that where the memory does not suffice; end it at `stop`."""
    stop = stop or threading.Event()
    outcome = Outcome(part.name, "skipped")
    for shrink in SHRINKS:
        if stop.is_set():
            outcome.reason = "interrupted"
            return outcome
        left = deadline - time.monotonic()
        if left < part.needs:
            why = f"needs about {part.needs:.0f} s, {max(left, 0):.0f} s are left"
            outcome.reason = f"{outcome.reason}; a smaller batch {why}" if outcome.reason else why
            return outcome
        limit = left if check else min(part.limit, left)
        outcome, status = _run_once(part, out, limit, check, shrink, stop)
        if status != OUT_OF_MEMORY:
            break
    return outcome


def _run_once(
    part: Part, out: Path, limit: float, check: bool, shrink: int, stop: threading.Event
) -> tuple[Outcome, int]:
    printed, log = out / f"{part.name}.txt", out / f"{part.name}.log"
    part.result(out).unlink(missing_ok=True)
    started = time.monotonic()
    with printed.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(
            part.command(out, check, shrink),
            stdout=stdout,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "140", **(ONE_THREAD if check else {})},
            start_new_session=True,  # so that what it starts ends with it
        )
        status = _wait(process, limit, stop)
    lines = [_lines(path) for path in (printed, log)]
    outcome = Outcome(part.name, "measured", seconds=time.monotonic() - started)
    result = _read(part.result(out)) if part.rows else {"rows": []}
    outcome.rows, outcome.device = result.get("rows", []), result.get("device", {})
    if shrink > 1:
        tried = f"out of memory with {shrink // 2} times the batch"
        outcome.rows = [
            {**row, "note": "; ".join(filter(None, (row.get("note"), tried)))} for row in outcome.rows
        ]
    if status == 0 and "rows" in result:
        outcome.lines = [] if part.rows else lines[0][-LAST_LINES:]
        return outcome, 0
    outcome.state = "failed"
    if status is None:
        outcome.reason = f"not done after {limit:.0f} s"
    elif status == 0:
        outcome.reason = "exit status 0, and no result"
    elif status < 0:
        outcome.reason = f"ended by {signal.Signals(-status).name}"
    else:
        outcome.reason = result.get("error") or complaint(*lines) or f"exit status {status}"
    return outcome, -1 if status is None else status


def _wait(process: subprocess.Popen[bytes], limit: float, stop: threading.Event) -> int | None:
    """Its exit status; None if it was ended, with all that it started, at the limit or at `stop`."""
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end and not stop.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(POLL, max(0.0, end - time.monotonic())))
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def complaint(printed: list[str], log: list[str]) -> str:
    """The last line that speaks of an error, or else the last line."""
    lines = [*printed, *log]
    telling = [line for line in lines if "rror" in line or " failed" in line]
    return (telling or lines or [""])[-1].strip()[:300]


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
