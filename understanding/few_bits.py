"""A language model's frozen weights in 4 or 8 bits, by bitsandbytes (QLoRA, arXiv 2305.14314; LLM.int8, 2208.07339).

Tower, projector, embeddings and head stay whole: they are small beside the layers, and features are read exactly.
"""

from __future__ import annotations

import math
from logging import ERROR, getLogger
from typing import Any

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration
from transformers.utils.import_utils import BITSANDBYTES_MIN_VERSION, is_bitsandbytes_available

from common.errors import UserError

BLOCK, GROUP = 64, 256
"""NF4's weights that share a scale, and scales that share one of their own (double quantization)."""


def few_bits_config(bits: int, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """As LLaVA has it: NF4 with double quantization, or LLM.int8.

    Args:
        compute_dtype: of the products of 4-bit weights.

    Raises:
        UserError: another number of bits, or there is no bitsandbytes.
    """
    if bits not in (4, 8):
        raise UserError(f"bits: expected 4 or 8, found {bits}")
    if not is_bitsandbytes_available():
        needed = f"the package bitsandbytes, {BITSANDBYTES_MIN_VERSION} or newer"
        raise UserError(f"bits: {bits} needs {needed}, which is not installed (bash scripts/setup.sh bits)")
    getLogger("bitsandbytes").setLevel(ERROR)  # it tells of every layer that it casts
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )


def make_few_bit_layers(llava: LlavaForConditionalGeneration, bits: int, compute_dtype: torch.dtype) -> None:
    """Exchange the linear layers of a language model that has no memory yet; `few_bits` gives them their weights.

    Raises:
        UserError: there is no bitsandbytes.
    """
    config = few_bits_config(bits, compute_dtype)
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(llava.model.language_model, quantization_config=config)
    setattr(llava, f"is_loaded_in_{bits}bit", True)  # by which peft chooses its adapters
    for layer in llava.model.language_model.modules():
        if in_few_bits(getattr(layer, "weight", None)):
            # Some CPUs lay weights out anew for the first evaluation; the scales do not come back the same, and sizes
            # that are no multiples of 32 are refused.
            layer.support_avx512bf16_for_cpu = False
            layer.register_state_dict_post_hook(_leave_out_statistics)


def in_few_bits(weight: Any) -> bool:
    """Whether bitsandbytes keeps it; its classes are known by name, so that it need not be there."""
    return type(weight).__name__ in ("Params4bit", "Int8Params")


def few_bits(empty: Any, values: Tensor) -> nn.Parameter:
    """The weight `values` (rows, columns) in the bits of `empty`, a weight of `make_few_bit_layers`, on its device."""
    settings = {name: value for name, value in vars(empty).items() if name != "SCB"}
    # What is to have 8 bits is quantized on its way from the CPU alone.
    start = values.cpu() if type(empty).__name__ == "Int8Params" else values
    return type(empty)(start, requires_grad=False, **settings).to(values.device)


def whole_weight(layer: Any) -> Tensor:
    """The weight (rows, columns) that a linear layer computes with, whatever it is kept in."""
    weight = layer.weight
    if in_few_bits(weight):
        return dequantize_bnb_weight(weight, getattr(layer, "state", None))
    return weight.detach()


def few_bits_bytes(rows: int, columns: int, bits: int) -> int:
    """What a weight takes with its scales, the tables of a layer (1 kB) aside."""
    weights = rows * columns
    if bits == 8:
        return weights + 4 * rows  # a float32 a row
    scales = math.ceil(weights / BLOCK)  # a byte each
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / GROUP)


def _leave_out_statistics(_layer: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Scales follow from the weights, which come from where the recipe says and are in no checkpoint."""
    for key in [key for key in state if key.startswith(prefix)]:
        if key.removeprefix(prefix) not in ("weight", "bias"):
            del state[key]
