"""Bytes of files that are read by offset, wherever they lie. All readers of shards and tables come through here."""

from __future__ import annotations

import os
from functools import lru_cache

from common.errors import UserError, refusing


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


def read_at(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on.

    Raises:
        UserError: it cannot be read, or ends before.
    """
    with refusing(f"{path}: cannot read this shard", OSError):
        # pread names its offset, so processes forked after the file was opened do not disturb each other
        content = os.pread(_open_file(path).descriptor, size, offset)
    if len(content) < size:
        raise UserError(f"{path}: this shard became shorter since it was indexed")
    return content
