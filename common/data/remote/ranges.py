"""Files behind URLs as if they were open here: bytes by offset, kept block by block for all processes of a node."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from common.data.remote.cache import Content, kept
from common.data.remote.retries import retried, shown
from common.data.remote.transport import Stat, ask_bytes, ask_list, ask_stat, ask_whole
from common.errors import FailedRead, UserError

BLOCK = 4 << 20  # bytes: some tens of pictures, which the readers of a window share

AT_ONCE = 4  # requests of one reader
STATED_AT_ONCE = 32


@lru_cache(maxsize=1 << 16)
def stat_url(url: str) -> Stat:
    """Asked for once a process, so that all of its reads are of one version of the file."""
    return retried(url, lambda: ask_stat(url))


def stat_urls(urls: Sequence[str]) -> None:
    """Ask for many at once, so that `stat_url` has them; what is refused says so there.

    Raises:
        FailedRead: one could not be asked for.
    """

    def ask(url: str) -> None:
        try:
            stat_url(url)
        except FailedRead:
            raise
        except UserError:
            pass

    with ThreadPoolExecutor(STATED_AT_ONCE) as pool:
        list(pool.map(ask, urls))


def forget_urls() -> None:
    stat_url.cache_clear()
    _block.cache_clear()


def list_urls(pattern: str, suffixes: Sequence[str]) -> list[str]:
    """URLs that a pattern with `*` names, or the files below it with such endings; one that names a file is itself."""
    path = urlsplit(pattern).path
    if "*" not in pattern and (not suffixes or path.endswith(tuple(suffixes))):
        return [pattern]
    return sorted(retried(pattern, lambda: ask_list(pattern, suffixes)))


def read_url(url: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, by way of the node's cache."""
    known = stat_url(url)
    if offset + size > known.size:
        raise FailedRead(
            f"{shown(url)}: {known.size} bytes long, {offset + size} were there when it was indexed"
        )
    parts = []
    while size > 0:
        number, start = divmod(offset, BLOCK)
        part = _block(url, known, number)[start : start + size]
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def read_whole_url(url: str, attempts: int = 3) -> bytes:
    """A small file that is read once, as a picture that a table names: past the cache, and soon given up."""
    return retried(url, lambda: ask_whole(url), attempts)


@lru_cache(maxsize=32)  # mapped, so they cost no memory of this process
def _block(url: str, known: Stat, number: int) -> Content:
    start = number * BLOCK
    size = min(BLOCK, known.size - start)
    return kept(("block", url, known, BLOCK, number), lambda: _bytes(url, start, size, known))


def _bytes(url: str, start: int, size: int, known: Stat) -> bytes:
    return retried(url, lambda: ask_bytes(url, start, size, known))


class UrlFile(io.RawIOBase):
    """A file behind a URL to read and to seek in.

    Args:
        cached: through the node's cache, in whole blocks; else exactly what is asked for.
    """

    def __init__(self, url: str, cached: bool) -> None:
        self.url, self._cached, self._known, self._at = url, cached, stat_url(url), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._known.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._known.size - self._at))
        if size:
            read = read_url(self.url, self._at, size) if self._cached else self._direct(size)
            buffer[:size] = read
            self._at += size
        return size

    def _direct(self, size: int) -> bytes:
        """In pieces that fit into a request's time, some of them at once."""
        starts = range(self._at, self._at + size, BLOCK)
        pieces = [(start, min(BLOCK, self._at + size - start)) for start in starts]
        if len(pieces) == 1:
            return _bytes(self.url, *pieces[0], self._known)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return b"".join(pool.map(lambda piece: _bytes(self.url, piece[0], piece[1], self._known), pieces))
