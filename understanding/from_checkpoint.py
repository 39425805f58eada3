"""A checkpoint of understanding's training, as the folder that its run would have left there; its adapters', too.

Tower, text tokenizer and what is frozen are found where the recipe says, as by the run itself.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from common.training.module_state import fill_module
from common.training.stored.reading import Checkpoint
from understanding import assemble
from understanding.config import UnderstandingConfig
from understanding.export import leave


def export(
    config: UnderstandingConfig, run: Path, checkpoint: Checkpoint, folder: Path, averaged: bool
) -> list[Path]:
    """Write the LLaVA model of a checkpoint; returns the folders written: `folder`, and with adapters `folder`_adapter.
    There are no averages here.

    Raises:
        UserError: checkpoint and recipe do not fit, a source is absent or another than the run had, or it cannot be
            written.
    """
    # One process partitions nothing, and nothing is computed.
    whole = replace(config.engine, zero_stage=0, offload="none", activation_checkpointing=False)
    config, device = replace(config, engine=whole), torch.device("cpu")
    tower = assemble.assemble_tower(config, device)
    trained_on = checkpoint.record["facts"].get("tower")
    if trained_on is None:
        print(
            f"warning: {checkpoint.path}: converted, and does not say which tower it was trained on",
            file=sys.stderr,
        )
    else:
        assemble.tower_fact(tower).check(trained_on, str(checkpoint.path))
    processor = assemble.assemble_processor(config, tower)
    side = assemble.assemble_language_side(config, tower, processor, {}, device)
    fill_module(side, "language_side", checkpoint)
    return leave(folder, folder.with_name(f"{folder.name}_adapter"), config, side, tower, processor)
