"""The smallest model that answers questions about pictures: random weights that have an opinion."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch

from understanding import assemble
from understanding.export import export_model


def write_chat_model(shelf: Path, folder: Path, kind: str = "llama") -> Path:
    """An exported LLaVA around a language model of `kind` (llama or qwen2) of `tiny.write_understanding_shelf`."""
    config = tiny.understanding_recipe(
        shelf,
        folder.parent,
        *tiny.FINE_TUNING,
        f"model.template={'vicuna_v1' if kind == 'llama' else 'qwen'}",
        "engine.zero_stage=1",
        kind=kind,
    )
    device = torch.device("cpu")
    tower = assemble.assemble_tower(config, device)
    processor = assemble.assemble_processor(config, tower)
    torch.manual_seed(0)
    side = assemble.assemble_language_side(config, tower, processor, {}, device)
    with torch.no_grad():
        for parameter in side.parameters():
            parameter.mul_(6)
    export_model(folder, side, tower, processor)
    return folder
