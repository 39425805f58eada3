"""Bad input ends in one line, not in a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

EXIT_BAD_INPUT = 2
LONGEST = 400  # characters of what a library says


class UserError(Exception):
    """Something the user gave is wrong. The message is one line and names the file and the field."""


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


def run_cli(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError`, or too little memory, prints `error: ...` on stderr and exits with status 2.

    What a stream cannot write (a path that is no UTF-8, any letter where the locale knows ASCII alone) is escaped:
    a line for the eye must not end what has been done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except Exception as error:
        if not isinstance(error, UserError) and not out_of_memory(error):
            raise
        _close_progress_bars()
        said = error if isinstance(error, UserError) else f"{MORE_MEMORY} ({one_line(error)[:LONGEST]})"
        print(f"error: {said}", file=sys.stderr)
        # Other ranks may wait in a collective: the launcher ends them as soon as this one exits with an error.
        sys.exit(EXIT_BAD_INPUT)


def _close_progress_bars() -> None:
    """Else the message would be written behind an open bar, on the same line, and the bar drawn once more."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
