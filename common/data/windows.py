"""A shuffled order that keeps locality, for sources that are made of pieces (shards, row groups).

The pieces are permuted per epoch and taken in windows of some pieces, and samples are permuted within a window. Nothing
is buffered, so any position of any epoch is reached directly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from common.data.order import derive_key, permutation, permuted


class WindowOrder:
    """Which sample comes at an offset of an epoch, and in which piece a sample lies.

    Args:
        counts: (n,) samples of each piece.
        window: pieces that are in use at a time.
    """

    def __init__(self, counts: np.ndarray, window: int) -> None:
        self.ends = np.cumsum(counts, dtype=np.int64)  # per piece: samples up to its end
        self._window = window

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def place(self, index: int) -> tuple[int, int]:
        """(piece, row in it) of the sample at `index` of the unshuffled set."""
        piece = int(np.searchsorted(self.ends, index, side="right"))
        return piece, index - (int(self.ends[piece - 1]) if piece else 0)

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        """The index of the sample that comes at `offset` of an epoch."""
        pieces, ends, window_ends = _epoch_plan(self, derive_key(seed, "shards", epoch))
        window = int(np.searchsorted(window_ends, offset, side="right"))
        start = int(window_ends[window - 1]) if window else 0
        length = int(window_ends[window]) - start
        place = start + permuted(offset - start, length, derive_key(seed, "window", epoch, window))
        order = int(np.searchsorted(ends, place, side="right"))
        row = place - (int(ends[order - 1]) if order else 0)
        piece = int(pieces[order])
        return row + (int(self.ends[piece - 1]) if piece else 0)


@lru_cache(maxsize=4)  # consecutive positions share it; at an epoch's turn, two are in use
def _epoch_plan(order: WindowOrder, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of an epoch in order, and the samples up to the end of each piece and of each window."""
    number = len(order.ends)
    pieces = permutation(number, key)
    ends = np.cumsum(np.diff(order.ends, prepend=0)[pieces])
    last = np.minimum(np.arange(order._window, number + order._window, order._window), number) - 1
    return pieces, ends, ends[last]
