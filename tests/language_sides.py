"""Projector and language model of a tiny recipe, with a batch to compare them by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from understanding import assemble
from understanding.config import UnderstandingConfig
from understanding.objective import LanguageSide

TOKENS = (16 // 4) ** 2


def parts(config: UnderstandingConfig) -> tuple[LanguageSide, Any, Any]:
    device = torch.device("cpu")
    tower = assemble.assemble_tower(config, device)
    processor = assemble.assemble_processor(config, tower)
    torch.manual_seed(0)
    return assemble.assemble_language_side(config, tower, processor, {}, device), tower, processor


def logits_of(side: LanguageSide, tower: Any, batch: dict[str, Tensor]) -> Tensor:
    seen: list[Tensor] = []
    hook = side.llava.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output))
    places = torch.arange(batch["input_ids"].numel())
    with torch.no_grad():
        side.eval()(batch["input_ids"], tower.read(batch["pixel_values"]), places, places * 0)
    hook.remove()
    return seen[0].unflatten(0, batch["input_ids"].shape)


def batch_for(side: LanguageSide) -> dict[str, Tensor]:
    ids = torch.tensor([[5, *[side.config.image_token_id] * TOKENS, 6, 7, 8]])
    return {
        "input_ids": ids,
        "pixel_values": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)),
    }
