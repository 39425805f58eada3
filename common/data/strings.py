"""Many strings in two arrays, in memory or in a file that is mapped into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class StringTable(Sequence[str]):
    """Strings that are decoded when they are asked for.

    A list of a million `str` would be copied, page by page, into the memory of every forked worker, because
    merely reading a Python object writes its reference count.

    `content` is uint8: all strings in UTF-8, one behind the other. `ends` (n + 1,) int64: where each begins, and the
    last ends.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self.content: Any = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @classmethod
    def of(cls, content: Any, ends: Any) -> StringTable:
        """Around the two arrays of another table, or what is sliced and indexed like them."""
        table = cls(())
        table.content, table.ends = content, ends
        return table

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, end = int(self.ends[index]), int(self.ends[index + 1])
        # A slice of a file cannot be empty.
        return self.content[first:end].tobytes().decode("utf-8", "surrogateescape") if end > first else ""
