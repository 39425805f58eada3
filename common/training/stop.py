"""Ending a run before its last step so that the same command goes on: at SIGTERM, at SIGUSR1, or after a time limit.

The step is finished, a checkpoint is written, and RUN/preempted says so, since launchers swallow exit codes; the exit
code is 0. A held-out evaluation is cut short, and one more step is done; a picture or a checkpoint that is being made
is finished. All ranks stop
after the same step, whichever of them was asked: once a step their hosts agree on it, by one number beside the devices'
own traffic. Before the first step nothing can be lost, and the run ends at once.

The same signal again, at least `AGAIN` s later, ends the process at once. Sooner it is the same request: a batch
system may ask a rank and its launcher, which asks it too.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

from common.errors import UserError
from common.files import write_json

Item = TypeVar("Item")

PREEMPTED = "preempted"
AGAIN = 5.0  # seconds
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
TIME_LIMIT = 1  # beside the numbers of the signals
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def read_duration(text: str) -> float:
    """Seconds of `3h50m`, `90s`, `1d12h`.

    Raises:
        UserError: it is none, or 0.
    """
    found = re.fullmatch("".join(rf"(?:(\d+){unit})?" for unit in UNITS), text, re.ASCII)
    numbers = found.groups("0") if found else ()
    seconds = sum(int(number) * unit for number, unit in zip(numbers, UNITS.values(), strict=False))
    if not seconds:
        raise UserError(f"--time-limit: expected a time such as 3h50m, 45m or 1d12h, found {text!r}")
    return float(seconds)


class StoppedEarly(Exception):
    """All ranks leave an evaluation, since one of them was asked to stop."""


class StopRequest:
    """Whether this run is to end before its last step.

    Args:
        run: the run's folder.
        listens: whether it can be asked at all; one that cannot costs nothing.
        time_limit: seconds since this process started.
    """

    def __init__(self, run: Path, listens: bool = False, time_limit: float | None = None) -> None:
        self.run, self.listens = run, listens
        self.reason: int | None = None
        """What all ranks have agreed to stop for: a signal's number, or `TIME_LIMIT`."""
        self._ends_at = None if time_limit is None else _process_start() + time_limit
        self._asked, self._asked_at, self._process = 0, 0.0, os.getpid()
        self._steps: int | None = None
        self._complete = False

    def begin(self, steps: int) -> None:
        """The loop up to step `steps` begins: from here on a request waits for the end of a step."""
        self._steps = steps

    @property
    def asked(self) -> int:
        """What this rank knows that the run is to stop for; 0 if it is not, or has done its last step."""
        if self._complete:
            return 0
        late = self._ends_at is not None and time.time() >= self._ends_at
        return self.reason or self._asked or (TIME_LIMIT if late else 0)

    def agreed(self, step: int | None = None) -> bool:
        """Whether all ranks stop now, which all of them ask at once. A run whose last step is done is not stopped.

        Args:
            step: that has just been done; None: still the same.
        """
        if not self.listens or self._steps is None:
            return False
        from common import dist

        if step is not None:
            dist.at_step(step)
            self._complete = step >= self._steps
        if self.reason is None and not self._complete:
            self.reason = dist.agreed_maximum(self.asked) or None
        return self.reason is not None and not self._complete

    def leave(self, step: int | None) -> str:
        """Writes RUN/preempted (rank 0); returns what to tell the user.

        Raises:
            UserError: it cannot be written.
        """
        reason = self.reason or self.asked
        name = "time limit" if reason == TIME_LIMIT else signal.Signals(reason).name
        if os.environ.get("RANK", "0") == "0" and self.run.is_dir():
            record = {"step": step, "reason": name, "when": datetime.now(UTC).isoformat(timespec="seconds")}
            write_json(self.run / PREEMPTED, record)
        done = "before the first step" if step is None else f"step {step} is done"
        return f"{self.run}: stopped ({name}): {done}; the same command goes on from the newest checkpoint"

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """A signal's handler."""
        if os.getpid() != self._process:
            return  # a loading process, which ends with its parent
        if self._asked == number and time.monotonic() - self._asked_at >= AGAIN:
            os._exit(128 + number)
        if self._asked:
            return
        self._asked, self._asked_at = number, time.monotonic()
        if self._steps is None:
            said = self.leave(None)
            if os.environ.get("RANK", "0") == "0":
                print(said, file=sys.stderr)
            if "common.dist" in sys.modules:
                sys.modules["common.dist"].end_all(said)
            raise SystemExit(0)


_current: StopRequest | None = None


@contextmanager
def listening(run: Path, time_limit: float | None = None) -> Iterator[None]:
    """Inside, signals and the time limit ask the run in `run` to stop; for the main thread of a command."""
    global _current
    _current = StopRequest(run, True, time_limit)
    former = {number: signal.signal(number, _current.hear) for number in SIGNALS}
    try:
        yield
    finally:
        _current = None
        if "common.dist" in sys.modules:
            sys.modules["common.dist"].at_step(None)
        for number, handler in former.items():
            signal.signal(number, handler)


def stop_request(run: Path) -> StopRequest:
    """That of the command, for its run, whose former RUN/preempted is removed; else one that is never asked."""
    if os.environ.get("RANK", "0") == "0":
        (run / PREEMPTED).unlink(missing_ok=True)
    return _current or StopRequest(run)


def until_stopped(items: Iterable[Item], together: bool = False) -> Iterator[Item]:
    """The batches of an evaluation, which all ranks iterate over at once; cut short if one of them is asked to stop.

    Args:
        together: every rank has as many, and they work on each together, as under ZeRO-3; else they only meet at
            the end.

    Raises:
        StoppedEarly: on all ranks, in place of the next item or of the end.
    """
    stop = _current
    for item in items:
        if stop is not None and (stop.agreed() if together else stop.asked):
            break
        yield item
    if stop is not None and stop.agreed():
        raise StoppedEarly


def _process_start() -> float:
    """When this process started, in seconds of `time.time()`."""
    import psutil

    return float(psutil.Process().create_time())
