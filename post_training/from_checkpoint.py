"""A checkpoint of a post-training, as the generator's folder that its run would have left there."""

from __future__ import annotations

from pathlib import Path

from common.training.module_state import fill_module
from common.training.run import leave_model
from common.training.stored.reading import Checkpoint
from post_training.assemble import assemble_generator, assemble_policy
from post_training.config import PostTrainingConfig
from post_training.methods.opening import method_of


def export(
    config: PostTrainingConfig, run: Path, checkpoint: Checkpoint, folder: Path, averaged: bool
) -> list[Path]:
    """Write the generator of a checkpoint; returns the folders written. There are no averages here.

    Raises:
        UserError: checkpoint and recipe do not fit, a source is absent or another than the run had, or it cannot be
            written.
    """
    generator = assemble_generator(config)
    generator.vocabulary.check_vqrae(checkpoint.record["facts"]["vqrae_sha256"], str(checkpoint.path))
    if config.engine.precision == "bf16":
        generator.model.bfloat16()
    fill_module(assemble_policy(config, generator, method_of(config)), "generator", checkpoint)
    leave_model(folder, generator)
    return [folder]
