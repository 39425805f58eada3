"""The order of samples, as pure functions.

Nothing here remembers anything: the sample at a global position follows from (seed, position) alone. So the
order is the same for any world size and any number of workers, and resuming is starting at another position.
A permutation of 36 million indices costs no memory, because each image of an index is computed on its own, by
a Feistel network with cycle walking (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

import hashlib

import numpy as np

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


def permutation(length: int, key: int) -> np.ndarray:
    """(length,) int64: `permuted` of every index at once; 10,000 take 2 ms instead of 150."""
    bits = max(4, (length - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << bits // 2) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    found = np.arange(length, dtype=np.uint64)
    walking = np.arange(length)
    with np.errstate(over="ignore"):  # it wraps at 64 bits, as the masks above make it
        while len(walking):
            high, low = found[walking] >> low_bits, found[walking] & low_mask
            for turn in range(0, _ROUNDS, 2):
                high ^= _mix_all(low ^ np.uint64(key), turn) & high_mask
                low ^= _mix_all(high ^ np.uint64(key), turn + 1) & low_mask
            found[walking] = (high << low_bits) | low
            walking = walking[found[walking] >= length]
    return found.astype(np.int64)


def _mix_all(values: np.ndarray, turn: int) -> np.ndarray:
    """`_mix` of uint64 values."""
    values = values + np.uint64((turn + 1) * _GOLDEN & _MASK)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _mix(value: int, turn: int) -> int:
    """SplitMix64's output function (Steele, Lea and Flood, 2014)."""
    value = (value + (turn + 1) * _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def dealt(step: int, size: int, rank: int, world: int, start: int) -> list[int]:
    """The global positions of rank `rank` in micro-batch `step` of `size`.

    After n micro-batches on each rank, the stream stands at `start + n * world * size`.
    """
    return [start + place * world + rank for place in range(step * size, (step + 1) * size)]
