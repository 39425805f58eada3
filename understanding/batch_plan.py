"""Which samples meet in a batch, as pure functions of (seed, step).

A unit is what is laid in a batch: one sample, or one pack of samples. The global batch of a step is a list of units,
whatever the number of ranks; ranks take micro-batches from it in turn. So a run continues anywhere, on any world.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from understanding.weighting import Span, permutation, samples_of, weighted

Unit = tuple[int, ...]
OPEN_PACKS = 64  # packs that first-fit looks at; more fill them hardly better


class BatchPlan:
    """The batches of a run, epoch after epoch; each usable sample comes once in each, or as its source's weight says
    (see `weighting`).

    With a `group`, the units of a global batch stand by length, so that similar ones meet in a micro-batch and on all
    ranks at once; which units the batch holds is still drawn from the whole set. With `modality_length` they are also
    drawn from the samples with images only, or from those without, as LLaVA-1.5 does; what is left of both at the end
    of an epoch makes its last batches, of which at most one is mixed. The last batch of an epoch may be short.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        images: np.ndarray,
        *,
        usable: np.ndarray,
        global_size: int,
        seed: int,
        group: Literal["none", "length", "modality_length"] = "none",
        pack_length: int | None = None,
        spans: Sequence[Span] | None = None,
    ) -> None:
        """
        Args:
            lengths: tokens of each sample. images: how many images it has. usable: bool, which samples take part.
            global_size: units of a step, all ranks and accumulation together.
            pack_length: lay samples in packs of at most so many tokens; None packs nothing.
            spans: of the sources, which lie behind each other; None is one of weight 1.

        Raises:
            ValueError: no sample is usable.
        """
        self._lengths, self._images = np.asarray(lengths), np.asarray(images)
        self._usable = np.flatnonzero(usable)
        if not len(self._usable):
            raise ValueError("no sample is usable")
        self._sources = weighted(self._usable, spans if spans is not None else [(0, len(usable), 1.0)])
        self._global_size, self._seed, self._group = global_size, seed, group
        self._pack_length = pack_length
        self._starts = [0]  # the first step of each epoch that is known

    def steps(self, epochs: int) -> int:
        """Optimizer steps in so many epochs."""
        return self._start(epochs)

    def epoch(self, step: int) -> float:
        """How many epochs are over at the start of a step, in parts of one."""
        epoch = self._epoch_of(step)
        first, end = self._start(epoch), self._start(epoch + 1)
        return epoch + (step - first) / (end - first)

    def units(self, step: int) -> list[Unit]:
        """The global batch of a step: at most `global_size` units, at least one."""
        epoch = self._epoch_of(step)
        return _draw_epoch(self, epoch).batch(step - self._start(epoch))

    def share(self, step: int, rank: int, world: int, micro_size: int) -> list[list[Unit]]:
        """The micro-batches of one rank, in order; empty ones fill up a short batch.

        Micro-batch k of the global batch goes to rank k % world.
        """
        units = self.units(step)
        micro_batches = [
            units[start : start + micro_size] for start in range(0, self._global_size, micro_size)
        ]
        return micro_batches[rank::world]

    def _start(self, epoch: int) -> int:
        """The first step of an epoch; how many packs an epoch has depends on its order."""
        if self._pack_length is None:
            return epoch * -(-sum(source.drawn for source in self._sources) // self._global_size)
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + len(_draw_epoch(self, len(self._starts) - 1)))
        return self._starts[epoch]

    def _epoch_of(self, step: int) -> int:
        epoch = 0
        while self._start(epoch + 1) <= step:
            epoch += 1
        return epoch


class _Epoch:
    """The batches of one epoch, in a few arrays: every worker of every rank holds them."""

    def __init__(self, members: np.ndarray, unit_ends: np.ndarray, batches: list[np.ndarray]) -> None:
        """`members[unit_ends[u - 1] : unit_ends[u]]` are the samples of unit u; a batch names units."""
        self._members = members
        self._ends = np.concatenate([[0], unit_ends])
        self._units = np.concatenate(batches)
        self._batch_ends = np.cumsum([0] + [len(batch) for batch in batches])

    def __len__(self) -> int:
        return len(self._batch_ends) - 1

    def batch(self, number: int) -> list[Unit]:
        units = self._units[self._batch_ends[number] : self._batch_ends[number + 1]]
        return [tuple(self._members[self._ends[unit] : self._ends[unit + 1]].tolist()) for unit in units]


@lru_cache(maxsize=4)  # at an epoch's turn, two are in use
def _draw_epoch(plan: BatchPlan, epoch: int) -> _Epoch:
    samples = samples_of(plan._sources, plan._seed, epoch)
    order = samples[permutation(len(samples), plan._seed, "samples", epoch)]
    kinds = [order]
    if plan._group == "modality_length":
        seen = plan._images[order] > 0
        kinds = [order[seen], order[~seen]]
    size = plan._global_size
    members: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    batches: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    first = 0  # unit of this kind
    for kind in kinds:
        if plan._pack_length is not None:
            kind, counts = pack(kind, plan._lengths, plan._pack_length)
        else:
            counts = np.ones(len(kind), np.int64)
        members.append(kind)
        sizes.append(counts)
        units = np.arange(first, first + len(counts))
        first += len(counts)
        whole = len(units) - len(units) % size
        batches += np.split(units[:whole], whole // size) if whole else []
        rest.append(units[whole:])
    batches = [batches[turn] for turn in permutation(len(batches), plan._seed, "batches", epoch)]
    left = np.concatenate(rest)
    batches += [left[start : start + size] for start in range(0, len(left), size)]
    flat, ends = np.concatenate(members), np.cumsum(np.concatenate(sizes))
    if plan._group != "none":
        tokens = np.diff(np.concatenate([[0], np.cumsum(plan._lengths[flat])[ends - 1]]))
        batches = [units[np.argsort(-tokens[units], kind="stable")] for units in batches]
    return _Epoch(flat, ends, batches)


def pack(order: np.ndarray, lengths: np.ndarray, pack_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples into packs of at most `pack_length` tokens, by first fit over the last `OPEN_PACKS` packs.

    A pack stands where its first sample stood in `order`; a sample that is longer by itself is a pack of its own.

    Returns:
        the samples, pack by pack, and how many each pack has.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    first = 0  # packs before it are closed
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        for place in range(first, len(packs)):
            if room[place] >= length:
                packs[place].append(index)
                room[place] -= length
                break
        else:
            packs.append([index])
            room.append(pack_length - length)
            first = max(0, len(packs) - OPEN_PACKS)
    samples = np.array([index for members in packs for index in members], np.int64)
    return samples, np.array([len(members) for members in packs], np.int64)
