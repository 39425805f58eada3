"""Which source comes at which position of an endless stream, in proportion to the sources' weights.

Pure functions of (seed, position), like `order`: nothing has to be saved to resume.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from common.data.order import derive_key, permuted


class Place(NamedTuple):
    """Where a sample comes from: the source's number, the position in the source's own order, and that order's seed."""

    source: int
    position: int
    seed: int


class Mixture:
    """Deals global positions (any number from 0) to sources.

    Args:
        weights: of the sources, above 0.
        lanes: parts of the stream that run side by side, each with a schedule of its own.
    """

    def __init__(self, weights: Sequence[float], lanes: int, seed: int) -> None:
        self.counts, self.lanes, self.seed = block_counts(weights), lanes, seed

    def __getitem__(self, position: int) -> Place:
        source, local = locate(position, self.counts, self.seed, self.lanes)
        return Place(source, local, derive_key(self.seed, "source", source))


def block_counts(weights: Sequence[float], longest: int = 1000) -> tuple[int, ...]:
    """How often each source comes in one block of the mixture: small integers in proportion to `weights`.

    The shortest block that is exact is taken (27, 5, 4 gives 36 samples), else the closest one of at most
    `longest` samples. Every source comes at least once.
    """
    total = sum(weights)
    shares = [weight / total for weight in weights]
    best: tuple[float, tuple[int, ...]] | None = None
    for block in range(len(shares), max(longest, len(shares)) + 1):
        counts = tuple(max(1, round(share * block)) for share in shares)
        error = max(abs(count / sum(counts) - share) for count, share in zip(counts, shares, strict=True))
        if best is None or error < best[0]:
            best = error, counts
        if error < 1e-9:
            break
    assert best is not None
    return best[1]


def locate(position: int, counts: tuple[int, ...], seed: int, lanes: int) -> tuple[int, int]:
    """Which source the sample at a global `position` comes from, and its position within that source.

    Positions are dealt to `lanes` in turn. Each lane runs through blocks in which source s comes `counts[s]`
    times, in an order drawn per lane and block; so the n-th sample of s in lane v has the local position `n *
    lanes + v`. Local positions of a source are therefore each used once, and modulo `lanes` they keep their
    lane.
    """
    row, lane = divmod(position, lanes)
    block, offset = divmod(row, sum(counts))
    source, earlier = _block_schedule(counts, derive_key(seed, "mixture", lane, block))[offset]
    return source, (block * counts[source] + earlier) * lanes + lane


@lru_cache(maxsize=1024)  # the lanes that one process reads, each within one block
def _block_schedule(counts: tuple[int, ...], key: int) -> list[tuple[int, int]]:
    """For each offset in a block: the source, and how often it came before within the block."""
    ends = list(accumulate(counts))
    seen = [0] * len(counts)
    schedule = []
    for offset in range(ends[-1]):
        source = bisect_right(ends, permuted(offset, ends[-1], key))
        schedule.append((source, seen[source]))
        seen[source] += 1
    return schedule
