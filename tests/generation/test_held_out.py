"""Held-out pictures of a generator that cannot be read."""

from __future__ import annotations

from pathlib import Path

import tiny_generator
import torch

from generation import assemble
from generation.code_encoder import CodeEncoder
from generation.dataset import SequenceBuilder
from generation.held_out import HeldOut
from generation.objective import NextCode


def test_they_are_left_out_and_counted(tmp_path: Path) -> None:
    shelf = tiny_generator.write_shelf(tmp_path, pictures=5)
    config = tiny_generator.recipe(shelf, tmp_path / "run")
    generator = assemble.assemble_generator(config)
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    model = NextCode(generator.model, generator.vocabulary, config.loss_vocabulary)

    def scores() -> dict[str, float]:
        return HeldOut(config, builder, CodeEncoder(generator.vqrae, "fp32")).evaluate(
            model, torch.device("cpu")
        )

    assert scores()["images"] == 5 and "skipped" not in scores()
    damaged = shelf / "images" / "003.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with_one_less = scores()
    assert (with_one_less["images"], with_one_less["skipped"]) == (4, 1)
