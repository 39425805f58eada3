"""The order of samples, as pure functions.

Nothing here remembers anything: the sample at a global position follows from (seed, position) alone. So the
order is the same for any world size and any number of workers, and resuming is starting at another position.
A permutation of 36 million indices costs no memory, because each image of an index is computed on its own, by
a Feistel network with cycle walking (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 12  # fewer leave the smallest ranges visibly uneven


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from a seed and what it is used for; stable across processes, machines and versions."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permuted(index: int, length: int, key: int) -> int:
    """The image of `index` under the pseudo-random permutation of `range(length)` that `key` names."""
    if not 0 <= index < length:
        raise IndexError(f"index {index} is outside of range({length})")
    bits = max(4, (length - 1).bit_length())
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    while True:
        high, low = index >> low_bits, index & low_mask
        for turn in range(0, _ROUNDS, 2):  # each half is XORed with a function of the other: invertible
            high ^= _mix(low ^ key, turn) & high_mask
            low ^= _mix(high ^ key, turn + 1) & low_mask
        index = (high << low_bits) | low
        if index < length:  # else walk on along the cycle; fewer than two steps on average
            return index


def _mix(value: int, turn: int) -> int:
    """SplitMix64's output function (Steele, Lea and Flood, 2014)."""
    value = (value + (turn + 1) * _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


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
