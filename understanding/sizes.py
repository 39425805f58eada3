"""How many parameters there are: of a whole recipe, before anything is loaded, and of one that is partitioned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from understanding.config import ModelConfig
from understanding.lora import add_adapters
from understanding.model import skeleton, stated_config
from understanding.objective import LanguageSide


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters each part has; `adapters` are LoRA's, beside the language model."""

    tower: int
    projector: int
    language_model: int
    adapters: int


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
    adapters = 0
    if model.lora is not None:
        add_adapters(side, model.lora)
        adapters = _size(side) - projector - language_model
    return ParameterCounts(tower, projector, language_model, adapters)


def numel(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, also where it is partitioned."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _size(module: nn.Module) -> int:
    return sum(numel(parameter) for parameter in module.parameters())
