"""How many parameters there are: of a whole recipe, before anything is loaded, and of one that is partitioned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn

from understanding.config import ModelConfig
from understanding.few_bits import few_bits_bytes
from understanding.lora import add_adapters
from understanding.model import skeleton, stated_config
from understanding.objective import LanguageSide


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters each part has; `adapters` are LoRA's, beside the language model.

    Args:
        few_bits: those of the language model that are kept in few bits. few_bits_bytes: what these take.
    """

    tower: int
    projector: int
    language_model: int
    adapters: int
    few_bits: int = 0
    few_bits_bytes: int = 0

    def trained(self, model: ModelConfig) -> int:
        """How many of them learn."""
        learned = self.projector if "projector" in model.train else 0
        if "language_model" in model.train:
            learned += self.adapters if model.lora else self.language_model
        return learned


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """The sizes that a recipe states, without memory for them, weights or network.

    Raises:
        UserError: the stated architectures are none that transformers knows.
    """
    llava = skeleton(stated_config(model), model.attn_implementation)
    tower = _size(llava.model.vision_tower)
    side = LanguageSide(llava)
    projector = _size(side.llava.model.multi_modal_projector)
    language_model = _size(side) - projector
    if model.lora is None:
        return ParameterCounts(tower, projector, language_model, 0)
    add_adapters(side, model.lora)
    adapters = _size(side) - projector - language_model
    if model.lora.bits is None:
        return ParameterCounts(tower, projector, language_model, adapters)
    adapted: list[Any] = [layer.base_layer for layer in side.modules() if isinstance(layer, LoraLayer)]
    shapes = [(int(layer.out_features), int(layer.in_features)) for layer in adapted]
    size = sum(few_bits_bytes(rows, columns, model.lora.bits) for rows, columns in shapes)
    return ParameterCounts(tower, projector, language_model, adapters, sum(map(math.prod, shapes)), size)


def numel(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, also where it is partitioned or in few bits."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return int(packed.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _size(module: nn.Module) -> int:
    return sum(numel(parameter) for parameter in module.parameters())
