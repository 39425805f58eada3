"""What the two processes of the `pair` fixture can do; imported once, at their start."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import torch

from common.training import dist
from tokenizer import reconstruct
from tokenizer import train as tokenizer_train
from tokenizer.training_state import TrainingState


def rank_and_world() -> tuple[int, int]:
    return dist.rank(), dist.world()


def train_tokenizer(
    pictures: str, output: str, overrides: list[str], stop_after: int | None = None
) -> dict[str, Any]:
    """Train the tiny recipe; returns a digest of the weights that this rank ends with.

    Args:
        stop_after: interrupt the run once the checkpoint of this step is written.
    """
    kept: list[TrainingState] = []
    start, save = TrainingState.__init__, TrainingState.save

    def remember(self: TrainingState, *inputs: Any) -> None:
        kept.append(self)
        start(self, *inputs)

    def save_and_stop(self: TrainingState, checkpoints: Any, step: int) -> None:
        save(self, checkpoints, step)
        if step == stop_after:
            raise KeyboardInterrupt

    config = tiny.tokenizer_recipe(Path(pictures), Path(output), *overrides)
    with (
        mock.patch.object(TrainingState, "__init__", remember),
        mock.patch.object(TrainingState, "save", save_and_stop),
        contextlib.suppress(KeyboardInterrupt),
    ):
        tokenizer_train.train(config)
    return {"weights": digest(kept[0].model)}


def digest(model: torch.nn.Module) -> str:
    """Equal exactly when all tensors are."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def score_pictures(arguments: list[str]) -> None:
    """`tokenizer/reconstruct.py` on this rank's share of the pictures."""
    reconstruct.main(arguments)
