"""The weights of a checkpoint without an engine: into a plain module on one CPU, one tensor at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.training.stored.reading import Checkpoint

AVERAGES = "part/ema/"
"""Before the names of what a moving average is kept of."""


def holds_averages(checkpoint: Checkpoint) -> bool:
    return any(key.startswith(AVERAGES) for key in checkpoint.keys())  # noqa: SIM118


@torch.no_grad()
def fill_module(module: nn.Module, name: str, checkpoint: Checkpoint, averaged: bool = False) -> None:
    """Make `module` what the engine `name` was (see `engine_state`), in the precisions that its tensors have here.

    Args:
        module: what the engine wrapped. What is frozen and not in the checkpoint stays as it is.
        averaged: the moving average of what one is kept of, in place of its weights.

    Raises:
        UserError: something that learned is missing, or is of another shape.
    """
    there = set(checkpoint.keys())
    for title, parameter in module.named_parameters():
        key = f"{name}/weight/{title}"
        average = f"{AVERAGES}{title}"
        if averaged and average in there:
            key = average
        if key in there or parameter.requires_grad:
            _copy(checkpoint, key, parameter)
    for title, buffer in module.named_buffers():
        key = f"{name}/buffer/{title}"
        if key in there:
            _copy(checkpoint, key, buffer)


def _copy(checkpoint: Checkpoint, key: str, into: Tensor) -> None:
    value = checkpoint.read(key)
    if value.shape != into.shape:
        raise UserError(
            f"{checkpoint.path}: {key}: expected shape {tuple(into.shape)} by the recipe, found {tuple(value.shape)}"
        )
    into.copy_(value)
