"""Bad input ends in one line, not in a traceback."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_OTHER_FAILED = 3
"""Exit code of a process that ended because another one failed."""
SAME_ERROR = 3  # seconds
STUCK = 20  # seconds after which a failed process that does not end by itself is ended
LONGEST = 400  # characters of what a library says


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class UserError(Exception):
    """Something the user gave is wrong. The message is one line and names the file and the field.

    Names come from others' archives and disks: what of them would end the line or steer a terminal is escaped.
    """

    def __str__(self) -> str:
        return CONTROL.sub(lambda found: ascii(found[0])[1:-1], super().__str__())


class FailedRead(UserError):
    """Bytes that are there, or should be, could not be had now: `PATH: cannot be read: REASON`.

    Where samples are drawn it is counted and replaced like a damaged picture; elsewhere it is bad input.
    """


NO_MEMORY = re.compile(
    r"out of memory|not enough memory|cannot allocate memory|can't allocate memory|unable to allocate|bad_alloc"
    r"|failed to map segment|os error 12\b|can't start new thread|ALLOC_FAILED",
    re.IGNORECASE,
)
"""What the system, torch, CUDA's libraries, numpy and the loader of shared objects say when there is none."""
MORE_MEMORY = "not enough memory; free some, or ask for less at a time (smaller batches, fewer bits)"


def out_of_memory(error: BaseException | None) -> bool:
    """Whether that is why `error`, or what led to it, was raised. Imports nothing to find out."""
    while error is not None:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


LOST_WORKER = re.compile(
    r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)
"""What torch raises, in whatever line the main process is at, when a loading process has died."""


def lost_worker(error: BaseException | None) -> str | None:
    """Why a loading process died, and what helps; None where `error` does not come from that."""
    while error is not None:
        if found := LOST_WORKER.search(str(error)):
            if found[1] == "Bus error":
                return (
                    "a data worker was killed (Bus error): /dev/shm, where workers leave their batches, is full; give "
                    "it more room (docker run --shm-size), or lower data.prefetch or data.workers"
                )
            if found[1] in (None, "Killed"):
                return (
                    "a data worker was killed, most likely because memory ran out (signal 9); lower data.workers or "
                    "data.prefetch, or ask for more memory"
                )
            return f"a data worker died ({found[1]}); data.workers=0 loads in the main process and says more"
        error = error.__cause__ or error.__context__
    return None


def one_line(error: BaseException, where: object = "") -> str:
    """What `error` says, on a single line, for use inside a `UserError`; names a file unless `where` has named it."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        told = error.filename is None or str(error.filename) in str(where)
        said = error.strerror if told else f"{error.strerror}: {error.filename}"
    return " ".join(said.split()) or type(error).__name__


@contextmanager
def refusing(where: object, *kinds: type[Exception]) -> Iterator[None]:
    """Inside, an error of one of `kinds`, or any, becomes a `UserError`: `WHERE: MESSAGE`, cut at `LONGEST`.

    Without `kinds` it is for reading what others wrote: libraries raise nearly anything for damaged files and misfits.
    Where there was too little memory, the message says so.
    A `UserError` passes as it is, unless `kinds` names it: then `WHERE: ` is put before it.
    """
    caught = kinds or (Exception,)
    try:
        yield
    except caught as error:
        if not isinstance(error, UserError):
            said = MORE_MEMORY if out_of_memory(error) else one_line(error, where)[:LONGEST]
            raise UserError(f"{where}: {said}") from error
        if UserError not in kinds:
            raise
        raise UserError(f"{where}: {error}") from error


tell_peers: Callable[[BaseException], bool] | None = None
"""Set where there are other processes (`common/dist.py`): tells them, and says whether this one is to speak."""
lost_peer: Callable[[BaseException], bool] | None = None
"""Set there too: whether the error is one that the end of another process leads to."""


def run_cli(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError`, a lost data worker, or too little memory, prints `error: ...` on stderr and exits with
    status 2; Ctrl-C prints a line and exits with 130.

    Of several processes that fail, the first one speaks; those that only lost another one, or would say the same, are
    quiet.

    What a stream cannot write (a path that is no UTF-8, any letter where the locale knows ASCII alone) is escaped:
    a line for the eye must not end what has been done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        _close_progress_bars()
        if os.environ.get("RANK", "0") == "0":
            print("interrupted", file=sys.stderr)
        if _several():
            _end_soon()
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        speaks = _may_speak(error)
        _close_progress_bars()
        lost = lost_worker(error)
        if isinstance(error, UserError) or lost or out_of_memory(error):
            said = lost or (
                error if isinstance(error, UserError) else f"{MORE_MEMORY} ({one_line(error)[:LONGEST]})"
            )
            if speaks:
                print(f"error: {said}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        if lost_peer is not None and lost_peer(error):
            if speaks:  # before anybody knew more of it
                said = one_line(error)[:LONGEST]
                print(
                    f"error: another process of this run is gone, its own error says why ({said})",
                    file=sys.stderr,
                )
        elif speaks:
            raise
        sys.exit(EXIT_OTHER_FAILED)


def _may_speak(error: Exception) -> bool:
    if not _several():
        return True
    _end_soon()
    if tell_peers is not None:
        return tell_peers(error)
    if os.environ.get("RANK", "0") != "0":
        # Before they have met: rank 0 mostly says the same, and then the launcher ends this one.
        time.sleep(SAME_ERROR)
    return True


def _several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _end_soon() -> None:
    """A failed process may wait for others at its end, in code that is not Python's: the system ends it then."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers end what is left; the line comes first
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(STUCK)


def _close_progress_bars() -> None:
    """Else the message would be written behind an open bar, on the same line, and the bar drawn once more."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
