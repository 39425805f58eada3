"""Bad input ends in one line, not in a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

EXIT_BAD_INPUT = 2
LONGEST = 400  # characters of what a library says


class UserError(Exception):
    """Something the user gave is wrong. The message is one line and names the file and the field."""


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
    A `UserError` passes as it is, unless `kinds` names it: then `WHERE: ` is put before it.
    """
    caught = kinds or (Exception,)
    try:
        yield
    except caught as error:
        if not isinstance(error, UserError):
            raise UserError(f"{where}: {one_line(error, where)[:LONGEST]}") from error
        if UserError not in kinds:
            raise
        raise UserError(f"{where}: {error}") from error


def run_cli(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError` prints `error: ...` on stderr and exits with status 2.

    What a stream cannot write (a path that is no UTF-8, any letter where the locale knows ASCII alone) is escaped:
    a line for the eye must not end what has been done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        _close_progress_bars()
        print(f"error: {error}", file=sys.stderr)
        # Other ranks may wait in a collective: the launcher ends them as soon as this one exits with an error.
        sys.exit(EXIT_BAD_INPUT)


def _close_progress_bars() -> None:
    """Else the message would be written behind an open bar, on the same line, and the bar drawn once more."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
