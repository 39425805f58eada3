"""A checkpoint of the generator's training, as the folder that its run would have left there.

Language model, text tokenizer and VQRAE are found where the recipe says, as by the run itself.
"""

from __future__ import annotations

from pathlib import Path

from common.training.module_state import fill_module
from common.training.run import leave_model
from common.training.stored.reading import Checkpoint
from generation.assemble import assemble_generator
from generation.config import GenerationConfig
from generation.objective import NextCode


def export(
    config: GenerationConfig, run: Path, checkpoint: Checkpoint, folder: Path, averaged: bool
) -> list[Path]:
    """Write the generator of a checkpoint; returns the folders written. There are no averages here.

    Raises:
        UserError: checkpoint and recipe do not fit, a source is absent or another than the run had, or it cannot be
            written.
    """
    generator = assemble_generator(config)
    vocabulary = generator.vocabulary
    vocabulary.check_vqrae(checkpoint.record["facts"]["vqrae_sha256"], str(checkpoint.path))
    if config.engine.precision == "bf16":
        generator.model.bfloat16()
    model = NextCode(generator.model, vocabulary, config.loss_vocabulary)
    fill_module(model, "generator", checkpoint)
    leave_model(folder, generator)
    return [folder]
