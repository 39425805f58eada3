"""How often the samples of a source come: which of them an epoch has, as a pure function of (seed, epoch).

A source of weight w has w times its usable samples in every epoch, rounded. It runs through its own permutations, one
after the other, and an epoch takes what follows the former's: with 0.5 each sample comes in every other epoch, with 2.5
twice, and every other time thrice. With weights of 1 an epoch is all samples, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.order import derive_key

Span = tuple[int, int, float]
"""A source: its first sample, the one behind its last, its weight."""


@dataclass(frozen=True)
class Weighted:
    """A source's usable samples, and how many are drawn in an epoch."""

    samples: np.ndarray
    drawn: int


def drawn(samples: int, weight: float) -> int:
    """How many an epoch has of so many; at least one of any."""
    return max(1, round(samples * weight)) if samples else 0


def weighted(usable: np.ndarray, spans: Sequence[Span]) -> list[Weighted]:
    """`usable` (n,) int64: the indices of usable samples, ascending."""
    parts = [usable[np.searchsorted(usable, first) : np.searchsorted(usable, end)] for first, end, _ in spans]
    return [
        Weighted(part, drawn(len(part), weight)) for part, (_, _, weight) in zip(parts, spans, strict=True)
    ]


def samples_of(sources: Sequence[Weighted], seed: int, epoch: int) -> np.ndarray:
    """The samples of an epoch, source by source; some more than once, or not at all."""
    return np.concatenate([_of_source(source, number, seed, epoch) for number, source in enumerate(sources)])


def _of_source(source: Weighted, number: int, seed: int, epoch: int) -> np.ndarray:
    count = len(source.samples)
    first, end = epoch * source.drawn, (epoch + 1) * source.drawn
    parts = [source.samples[:0]]
    while first < end:
        turn, start = divmod(first, count)
        stop = min(count, start + end - first)
        order = source.samples
        if stop - start < count:
            order = order[permutation(count, seed, "source", number, turn)]
        parts.append(order[start:stop])
        first += stop - start
    return np.concatenate(parts)


def permutation(length: int, *key: int | str) -> np.ndarray:
    """Of `range(length)`, drawn by NumPy's legacy generator, whose streams are frozen across versions (NEP 19)."""
    words = np.frombuffer(derive_key(*key).to_bytes(8, "little"), np.uint32)
    return np.random.RandomState(words).permutation(length)
