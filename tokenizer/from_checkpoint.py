"""A checkpoint of the tokenizer's training, as the model that its run would have left there. Needs the run alone."""

from __future__ import annotations

import json
from pathlib import Path

from common import dist
from common.errors import refusing
from common.files import write_json
from common.models.vqrae import VQRAE, VQRAEConfig
from common.training.module_state import fill_module
from common.training.run import leave_model
from common.training.stored.reading import Checkpoint
from tokenizer.assemble import assemble_model
from tokenizer.config import TokenizerConfig

MODEL_CONFIG = "model_config.json"
"""In RUN: the model without its weights, part of which is the config of an encoder that may be far from here."""


def note_model(run: Path, model: VQRAE) -> None:
    """Write what `export` needs beside a checkpoint (rank 0)."""
    if dist.is_main():
        write_json(run / MODEL_CONFIG, model.config.to_dict(), sort_keys=True)


def export(
    config: TokenizerConfig, run: Path, checkpoint: Checkpoint, folder: Path, averaged: bool
) -> list[Path]:
    """Write the VQRAE of a checkpoint; returns the folders written.

    Args:
        averaged: its moving average.

    Raises:
        UserError: checkpoint and recipe do not fit, or it cannot be written.
    """
    model = _empty(config, run)
    fill_module(model, "generator", checkpoint, averaged)
    leave_model(folder, model)
    return [folder]


def _empty(config: TokenizerConfig, run: Path) -> VQRAE:
    noted = run / MODEL_CONFIG
    if not noted.is_file():  # a run of before it was written
        return assemble_model(config)
    with refusing(f"{noted}: cannot be read"):
        stated = VQRAEConfig.from_dict(json.loads(noted.read_text(encoding="utf-8")))
    return VQRAE._from_config(stated, attn_implementation="eager")  # nothing is computed
