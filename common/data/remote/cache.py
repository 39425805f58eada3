"""What was downloaded or unpacked, kept on the node's disk for all of its processes, in so many bytes at most.

An entry is there whole or not at all, under a name made of what it is (URL, version, place): a process that is killed
leaves at most a partial, which is swept out later. Of processes that want the same entry at once, one makes it and the
others wait. What was used longest ago goes first. A lock dies with its process.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

from common.errors import UserError
from common.files import cache_file, whole_cache

log = logging.getLogger(__name__)
Content: TypeAlias = "bytes | mmap.mmap"

LIMIT_NAME = "VQRAE_CACHE_LIMIT"
DEFAULT_LIMIT = 32 << 30
_KEPT = 0.9  # of the limit, once room had to be made
_TURNS = 256  # locks; two entries that share one only wait for each other
_STALE = 3600  # s after which a partial has nobody who writes it


def limit() -> int:
    """Bytes that downloads may take on this node's disk: `VQRAE_CACHE_LIMIT`, as `500GB` or a number of bytes.

    Raises:
        UserError: it is no such number.
    """
    text = os.environ.get(LIMIT_NAME, "").strip()
    if not text:
        return DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"{LIMIT_NAME}: expected bytes, as 500GB or 0, found {text!r}")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


def kept(identity: tuple[object, ...], make: Callable[[], bytes]) -> Content:
    """The entry that `identity` names, made by `make` if no process of this node has it.

    `make` must not ask for another entry. Where the disk takes no more, the entry is returned all the same.
    """
    path = cache_file("downloads", *identity, suffix=".bin")
    with suppress(FileNotFoundError):
        return _mapped(path)
    if limit() == 0:
        return make()
    with _turn(path):
        with suppress(FileNotFoundError):
            return _mapped(path)
        content = make()
        try:
            if _has_room(path.parent, len(content)):
                with whole_cache(path) as file:
                    file.write(content)
        except UserError as error:
            _tell_once(str(error))
        return content


def _mapped(path: Path) -> Content:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if time.time() - status.st_mtime > 60:  # when it was used last; each use would be a write
            with suppress(OSError):
                os.utime(path)
        # Mapped, it can be read though it be thrown out meanwhile.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if status.st_size else b""


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    lock = path.parent / "locks" / f"{int(path.stem, 16) % _TURNS:02x}"
    with _locked(lock):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """An exclusive lock on a file, opened; None where the cache takes none, which costs a second download at most."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield None
        return
    try:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _has_room(folder: Path, size: int) -> bool:
    """Whether `size` bytes more may be written, after throwing out what was used longest ago."""
    most = limit()
    if size > most:
        return False
    with _locked(folder / "locks" / "total") as handle:
        if handle is None:
            return True
        # What is counted here is at least what is there: a process killed after counting has written less.
        counted = os.pread(handle, 32, 0)
        total = int(counted) + size if counted.strip().isdigit() else most + 1
        if total > most:
            total = _sweep(folder, int(most * _KEPT) - size) + size
        os.pwrite(handle, f"{total:<32}".encode(), 0)
    return True


def _sweep(folder: Path, most: int) -> int:
    """Throw out entries until at most `most` bytes are left; returns how many are."""
    entries = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            status = entry.stat()
            if entry.name.endswith(".partial") and time.time() - status.st_mtime > _STALE:
                Path(entry.path).unlink()
            elif entry.is_file():
                entries.append((status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= max(most, 0):
            break
        if path.endswith(".bin"):
            Path(path).unlink(missing_ok=True)
            total -= size
    return total


@cache
def _tell_once(reason: str) -> None:
    log.warning("downloads are not kept: %s", reason)
