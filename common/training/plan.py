"""What the three dry runs say alike, from counts alone: the batch, and what ZeRO keeps on each GPU (arXiv 1910.02054).

Activations come on top.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from common.data.accounts import numbered, planned_accounts
from common.data.config import SourceConfig
from common.errors import UserError
from common.training.engine import BatchConfig, EngineConfig, Precision

DEFAULT_GPUS = 8
MOMENTS = 8  # bytes of AdamW's two, float32
MASTER = 4  # bytes of ZeRO's own float32 copy of what it updates


def planned_ranks(gpus: int | None) -> int:
    """How many ranks a dry run plans for: `--gpus`, else the launcher's, else 8.

    Raises:
        UserError: fewer than one.
    """
    ranks = int(os.environ.get("WORLD_SIZE", DEFAULT_GPUS)) if gpus is None else gpus
    if ranks < 1:
        raise UserError(f"--gpus: expected 1 or more, found {ranks}")
    return ranks


def batch_line(batch: BatchConfig, ranks: int) -> str:
    """How the global batch comes together.

    Raises:
        UserError: it does not divide over the ranks.
    """
    parts = f"{batch.micro_size} micro x {batch.accumulation(ranks)} accumulation x {ranks} ranks"
    return f"global batch     {batch.global_size} = {parts}"


def source_lines(sources: Iterable[SourceConfig], captions: bool) -> list[str]:
    """A line for each of `data.sources`: pictures, and captions where they are wanted.

    Raises:
        UserError: one that is here cannot be opened, or has no captions where they are wanted.
    """
    lines = planned_accounts(numbered("data.sources", sources), captions)
    return [f"{'source':16} {line}" for line in lines]


def memory_lines(
    engine: EngineConfig,
    ranks: int,
    *,
    trained: int,
    frozen: int = 0,
    beside: float = 0.0,
    stages: Iterable[int] = (0, 1, 2),
) -> list[str]:
    """A line for each ZeRO stage that a trainer supports: GiB on each GPU.

    Args:
        trained, frozen: parameters inside the engine.
        beside: bytes on each GPU that no engine holds.
    """
    lines = []
    for stage in stages:
        there = zero_bytes(trained, frozen, stage, ranks, engine.precision) + beside
        mark = "  <- this recipe" if stage == engine.zero_stage else ""
        lines.append(f"  ZeRO-{stage}         {there / 2**30:6.1f} GiB{mark}")
    return lines


def checkpoint_bytes(trained: int, beside: int = 0, averaged: bool = False) -> float:
    """Of one checkpoint, all ranks together: weights and AdamW's moments of what learns, and its moving average.

    Args:
        beside: parameters that do not learn and are saved too.
    """
    return trained * (MASTER + MOMENTS + (MASTER if averaged else 0)) + MASTER * beside


def zero_bytes(trained: int, frozen: int, stage: int, ranks: int, precision: Precision) -> float:
    """Bytes of weights, gradients and optimizer states on one of `ranks` GPUs.

    Args:
        trained, frozen: parameters inside the engine.
    """
    size = 2 if precision == "bf16" else 4
    master = MASTER if stage or precision == "bf16" else 0
    optimizer = (MOMENTS + master) * trained / (ranks if stage >= 1 else 1)
    gradients = size * trained / (ranks if stage >= 2 else 1)
    weights = size * (trained + frozen) / (ranks if stage >= 3 else 1)
    return weights + gradients + optimizer
