"""What the two processes of the `pair` fixture can do; imported once, at their start."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import tiny_generator
import torch

from common.training import dist
from generation import extract_codes as code_extraction
from generation import picture_files
from generation import train as generation_train
from generation.generate import Generator
from generation.sampling import Sampling
from generation.training_state import TrainingState as GenerationState
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
        state.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def score_pictures(arguments: list[str]) -> None:
    """`tokenizer/reconstruct.py` on this rank's share of the pictures."""
    reconstruct.main(arguments)


def train_generator(
    shelf: str, output: str, overrides: list[str], stop_after: int | None = None
) -> dict[str, Any]:
    """Train the tiny generator; returns a digest of the weights that this rank ends with. `stop_after` as above."""
    kept: list[GenerationState] = []
    start, save = GenerationState.__init__, GenerationState.save

    def remember(self: GenerationState, *inputs: Any) -> None:
        kept.append(self)
        start(self, *inputs)

    def save_and_stop(self: GenerationState, checkpoints: Any, step: int) -> None:
        save(self, checkpoints, step)
        if step == stop_after:
            raise KeyboardInterrupt

    config = tiny_generator.recipe(Path(shelf), Path(output), *overrides)
    with (
        mock.patch.object(GenerationState, "__init__", remember),
        mock.patch.object(GenerationState, "save", save_and_stop),
        contextlib.suppress(KeyboardInterrupt),
    ):
        generation_train.train(config)
    return {"weights": digest(kept[0].model)}


def extract_codes(shelf: str, folder: str, batch_size: int, shard_size: int) -> None:
    """`generation/extract_codes.py` on this rank's share of the shards."""
    lenient = ("data.max_corrupt_share=0.2", f"data.codes={folder}/codes")
    code_extraction.extract(
        tiny_generator.recipe(Path(shelf), Path(folder) / "run", *lenient), batch_size, shard_size
    )


def write_pictures(model: str, prompts: list[str], n: int, folder: str, batch_size: int) -> list[str]:
    """This rank's share of a folder of generated pictures; returns the names of all."""
    files = picture_files.write_pictures(
        Generator.from_pretrained(model),
        prompts,
        n,
        Path(folder),
        seed=3,
        sampling=Sampling(cfg_scale=2.0),
        batch_size=batch_size,
    )
    return [file.name for file in files]
