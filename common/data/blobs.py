"""Bytes of files that are read by offset, wherever they lie. All readers of shards and tables come through here.

A path is a local one, or a URL that fsspec knows (`s3://`, `hf://`, `https://` ...): see `remote`.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from common.data.remote.ranges import (
    UrlFile,
    forget_urls,
    list_urls,
    read_url,
    read_whole_url,
    stat_url,
    stat_urls,
)
from common.data.remote.transport import Stat
from common.errors import FailedRead, UserError, refusing


class _OpenFile:
    """A descriptor that closes when the cache below drops it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_open_file = lru_cache(maxsize=64)(_OpenFile)


def forget_open_files() -> None:
    """A file may have been written anew since this process opened it."""
    _open_file.cache_clear()
    forget_urls()


def is_url(path: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def read_at(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on.

    Raises:
        FailedRead: it cannot be read, or ends before.
        UserError: a URL that no longer leads there, or to another version than when this process first read it.
    """
    if is_url(path):
        return read_url(path, offset, size)
    try:
        file = _open_file(path)  # held, or another thread's miss in the cache closes it before it is read
        # pread names its offset, so processes forked after the file was opened do not disturb each other
        content = os.pread(file.descriptor, size, offset)
        while 0 < len(content) < size:  # it may give less than it was asked for, though there is more
            more = os.pread(file.descriptor, size - len(content), offset + len(content))
            if not more:
                break
            content += more
    except OSError as error:
        raise FailedRead(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) < size:
        raise FailedRead(f"{path}: became shorter since it was indexed: {offset + size} bytes were there")
    return content


def read_whole(path: str) -> bytes:
    """All of a small file that is read once, as a picture that a table names: past the cache, and soon given up.

    Raises:
        UserError: it cannot be had; of a URL: why the download failed.
    """
    if is_url(path):
        return read_whole_url(path)
    with refusing(f"{path}: cannot be read", OSError):
        return Path(path).read_bytes()


def stat(path: str) -> Stat:
    """Raises:
    UserError: there is no such file, or no way to it.
    """
    if is_url(path):
        return stat_url(path)
    try:  # lean: it is asked of every shard of a set
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return Stat(found.st_size, str(found.st_mtime_ns))


def ask_stats(paths: Sequence[str]) -> None:
    """Ask for those behind URLs at once, so that `stat` has them: one by one, thousands take minutes.

    Raises:
        FailedRead: one cannot be asked for now.
    """
    if urls := [path for path in paths if is_url(path)]:
        stat_urls(urls)


def open_blob(path: str, cached: bool = True) -> BinaryIO:
    """A file to read and to seek in, for what looks through all of it.

    What is read of a URL goes through the node's cache, unless `cached` is False: for what is kept in another form.

    Raises:
        UserError: it cannot be opened, or later, at a read, as `read_at`.
    """
    if is_url(path):
        file = UrlFile(path, cached)
        return cast(BinaryIO, io.BufferedReader(file) if cached else file)
    with refusing(f"{path}: cannot be read", OSError):
        return cast(BinaryIO, Path(path).open("rb"))


def listed(pattern: str, suffixes: Sequence[str] = (), what: str = "files") -> list[str]:
    """Sorted paths of the files that a folder, a brace range or a glob names.

    Of URLs, `*` alone makes a pattern, since `?` begins a query.
    A name that is there is taken as it is, whatever signs it is made of: `part[2].tar` is no pattern then. Of a
    folder, files at any depth are taken whose names end in one of `suffixes` (all of them, if there are none) and
    begin with no dot.

    Raises:
        UserError: a pattern names nothing; says what was looked for.
    """
    paths: list[str] = []
    for part in [pattern] if Path(pattern).exists() else expand_braces(pattern):
        if is_url(part):
            found = list_urls(part, suffixes)
        elif Path(part).is_dir():
            found = _below(part, tuple(suffixes))
        elif glob.has_magic(part) and not Path(part).exists():
            root, rest = _rooted(Path(part))
            matches = root.glob(rest)
            found = [str(match) for match in matches if not match.name.startswith(".")]
        else:
            found = [part]
        if not found:
            raise UserError(f"{part}: no {what} found")
        paths += found
    return sorted(paths)


def _rooted(pattern: Path) -> tuple[Path, str]:
    """A glob's folder and the rest of it: what is there by its name is no pattern, as `set[1]` in `set[1]/*.tar`."""
    root, parts = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while len(parts) > 1 and (root / parts[0]).is_dir():
        root /= parts.pop(0)
    return root, str(Path(*parts))


def _below(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files at any depth; links are followed, but not back up."""
    found, visited = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = [
            name for name in names if not name.startswith(".") and (not suffixes or name.endswith(suffixes))
        ]
        found += [f"{place.rstrip('/')}/{name}" for name in wanted]
    return found


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{x,y}.tar` -> one string per file, as a shell would expand them."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if ends is not None:
        width = len(ends[1]) if ends[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        choices = match[1].split(",")
    tails = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + choice + tail for choice in choices for tail in tails]
