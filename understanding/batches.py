"""From samples to the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from common.data.workers import in_workers
from understanding.batch_plan import BatchPlan, Unit
from understanding.conversation import BadSample
from understanding.dataset import ConversationDataset, Sample

__all__ = ["Batch", "BatchPlan", "collate", "training_batches"]


class Batch(TypedDict):
    """One micro-batch of one rank; all tensors on the CPU.

    Where nothing is left of it, it is one row of one pad token with no targets, so that every rank takes every step.
    """

    input_ids: Tensor
    """int64 (B, L)"""
    attention_mask: Tensor | None
    """int64 (B, L), 1 where there is text; None when packed."""
    position_ids: Tensor | None
    """int64 (1, L), starting at 0 for each sample, which is how transformers tells packed ones apart; else None."""
    predictors: Tensor
    """int64 (M,), flat positions in B x L whose hidden state predicts ..."""
    targets: Tensor
    """int64 (M,), ... these ids: answers and their end tokens, nothing else. M may be 0."""
    pixel_values: Tensor
    """float32 (I, 3, S, S), in reading order of the rows. I may be 0."""
    skipped: list[str]
    """`SOURCE: ID: reason` of the samples that were left out of it."""
    samples: int
    """Samples that were drawn for it, skipped ones included."""
    indices: list[int]
    """Of those that are in it, in the data set."""


def collate(samples: Sequence[Sample], pad_id: int, no_pixels: Tensor, packed: bool) -> Batch:
    """Samples as rows, padded at the right; or, `packed`, all in one row without padding.

    Only flash attention skips what packed samples do not see of each other. With any other, a row costs the square of
    its length, so a micro-batch should be one pack.

    Args:
        no_pixels: float32 (0, 3, S, S), stands for the pixels where no sample has any.
    """
    rows = [np.concatenate([sample.ids for sample in samples])] if packed and samples else []
    if not packed:
        rows = [sample.ids for sample in samples]
    width = max((len(row) for row in rows), default=1)
    input_ids = np.full((max(len(rows), 1), width), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for number, row in enumerate(rows):
        input_ids[number, : len(row)] = row
        attention_mask[number, : len(row)] = 1
    if not rows:
        attention_mask[:] = 1  # a row that attends to nothing would give no number
    lengths = [len(sample.ids) for sample in samples]
    starts = np.cumsum([0, *lengths])[: len(samples)] if packed else np.arange(len(samples)) * width
    # What is learned at a position is predicted one before it; nothing predicts the first of a sample.
    learned = [
        start + 1 + np.flatnonzero(sample.learned[1:]) for start, sample in zip(starts, samples, strict=True)
    ]
    places = np.concatenate([np.zeros(0, np.int64), *learned])
    position_ids = None
    if packed:
        position_ids = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths or [1]]))[
            None
        ]
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=None if packed else torch.from_numpy(attention_mask),
        position_ids=position_ids,
        predictors=torch.from_numpy(places - 1),
        targets=torch.from_numpy(input_ids.reshape(-1)[places]),
        pixel_values=torch.cat([no_pixels, *(sample.pixel_values for sample in samples)]),
        skipped=[],
        samples=len(samples),
        indices=[],
    )


def read_batch(dataset: ConversationDataset, units: Sequence[Unit], packed: bool) -> Batch:
    """The micro-batch of these units; samples that cannot be read are left out of it and named."""
    samples: list[Sample] = []
    skipped: list[str] = []
    indices: list[int] = []
    for index in (index for unit in units for index in unit):
        try:
            samples.append(dataset.read(index))
            indices.append(index)
        except BadSample as problem:
            skipped.append(dataset.describe(index, problem))
    batch = collate(samples, dataset.pad_id, dataset.no_pixels, packed)
    batch["skipped"], batch["samples"], batch["indices"] = skipped, len(samples) + len(skipped), indices
    return batch


def training_batches(
    dataset: ConversationDataset,
    plan: BatchPlan,
    *,
    rank: int,
    world: int,
    micro_size: int,
    packed: bool,
    start: int,
    steps: int,
    workers: int,
    prefetch: int,
) -> Iterator[list[Batch]]:
    """This rank's micro-batches of each step from `start` to `steps`; all of a step at once.

    Args:
        workers: processes that read; 0 reads in this one. prefetch: steps that each of them reads ahead.
    """
    read = partial(_read_step, dataset, plan, rank, world, micro_size, packed)
    return in_workers(read, lambda: ([step] for step in range(start, steps)), workers, prefetch)


def _read_step(
    dataset: ConversationDataset,
    plan: BatchPlan,
    rank: int,
    world: int,
    micro_size: int,
    packed: bool,
    step: list[int],
) -> list[Batch]:
    shares = plan.share(step[0], rank, world, micro_size)
    return [read_batch(dataset, units, packed) for units in shares]
