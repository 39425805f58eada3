"""Low-rank adapters through `peft`: into the language model, and back out as plain weights or in peft's own format.

Adapters are injected into the library's own modules, so nothing else changes: names stay, the projector trains in
place, and DeepSpeed sees ordinary parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from understanding.config import LoRAConfig
from understanding.few_bits import whole_weight
from understanding.objective import LanguageSide

ADAPTER = "default"
PROJECTOR = "multi_modal_projector"
PEFT_PREFIX = "base_model.model."  # how `PeftModel` calls what it wraps


def add_adapters(side: LanguageSide, lora: LoRAConfig) -> None:
    """Inject adapters into every linear layer of the language model; all else ceases to require a gradient."""
    layers = {
        name.rpartition(".")[2]
        for name, module in side.llava.model.language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        # A pattern and no list of names: the tower's layers bear the same.
        target_modules=rf"model\.language_model\..*\.({'|'.join(sorted(layers))})",
    )
    inject_adapter_in_model(config, side.llava, ADAPTER, low_cpu_mem_usage=True)


def save_peft_config(folder: Path, side: LanguageSide, base: str | None) -> None:
    """`adapter_config.json`, by which `PeftModel.from_pretrained` takes adapters and projector from `folder`."""
    config: LoraConfig = side.llava.peft_config[ADAPTER]
    fields = {**config.to_dict(), "modules_to_save": [PROJECTOR], "base_model_name_or_path": base}
    LoraConfig(**{**fields, "inference_mode": True}).save_pretrained(str(folder))


def plain_name(name: str) -> str:
    """A parameter's name as it was before adapters came."""
    return name.replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def adapter_parameters(side: LanguageSide) -> Iterator[tuple[str, nn.Parameter]]:
    """What an adapter's folder holds, under the names it has there: adapters, and the projector."""
    for name, parameter in side.llava.named_parameters():
        if is_adapter(name) or f".{PROJECTOR}." in name:
            yield PEFT_PREFIX + name.replace(f".{ADAPTER}.", "."), parameter


class MergedWeight(NamedTuple):
    """A weight as if there had never been adapters.

    Args:
        name: its plain name.
        parameters: what it is made of, which may be partitioned: W, or W, A and B.
        values: reads it where these are whole: W, or W + s B A in float32.
    """

    name: str
    parameters: list[nn.Parameter]
    values: Callable[[], Tensor]


def merged_weights(side: LanguageSide) -> Iterator[MergedWeight]:
    """All weights of projector and language model; `side` stays as it is."""
    layers: dict[int, Any] = {
        id(layer.base_layer.weight): layer for layer in side.llava.modules() if isinstance(layer, LoraLayer)
    }
    for name, parameter in side.llava.named_parameters():
        layer = layers.get(id(parameter))
        if layer is not None:
            low_rank = [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
            yield MergedWeight(plain_name(name), [parameter, *low_rank], partial(_merged, layer))
        elif not is_adapter(name):  # a bias of an adapted layer among them
            yield MergedWeight(plain_name(name), [parameter], parameter.detach)


def _merged(layer: Any) -> Tensor:
    down, up = (low_rank[ADAPTER].weight.detach().float() for low_rank in (layer.lora_A, layer.lora_B))
    return whole_weight(layer.base_layer).float() + layer.scaling[ADAPTER] * (up @ down)
