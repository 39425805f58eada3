"""A model that answers about pictures, from its folder: precision, bits, and where its layers lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from common.errors import refusing
from common.models.strict_loading import load_strictly
from understanding.few_bits import few_bits_config

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = Literal["auto", "balanced", "sequential"]


def load_with_processor(
    folder: Path,
    called: str,
    device: torch.device | str,
    *,
    gpu_dtype: torch.dtype | str = "auto",
    attn_implementation: str = "sdpa",
    dtype: Dtype = "auto",
    device_map: DeviceMap | None = None,
    bits: int | None = None,
) -> tuple[Any, Any]:
    """Any model that answers about pictures, in evaluation mode on `device`, and its processor.

    Args:
        called: what the model should be, for errors.
        gpu_dtype: of its weights on a GPU where `dtype` is auto; "auto" as saved. On a CPU they are then float32.
        device_map: how accelerate deals the layers to what there is, in place of `device`.
        bits: 4 or 8, to keep the language model's weights in by bitsandbytes; None keeps them whole.

    Raises:
        UserError: one of them is absent, of another kind or damaged, there is no bitsandbytes, or too little memory.
    """
    logging.disable_progress_bar()
    place = (
        torch.device(device).type if device_map is None else "cuda" if torch.cuda.is_available() else "cpu"
    )
    options: dict[str, Any] = {"dtype": gpu_dtype if place != "cpu" else torch.float32}
    if dtype != "auto":
        options["dtype"] = dtype
    if bits is not None:
        options["quantization_config"] = few_bits_config(bits, torch.bfloat16)
    dealt = device_map is not None or bits is not None
    if dealt:
        options["device_map"] = device_map or {"": str(device)}
    model = load_strictly(
        AutoModelForImageTextToText,
        folder,
        called,
        surplus=True,
        attn_implementation=attn_implementation,
        **options,
    )
    with refusing(f"{folder}: cannot be loaded as {called}"):
        processor = AutoProcessor.from_pretrained(folder)
        model.eval()
        return (model if dealt else model.to(device)), processor
