"""Random numbers for mPLUG's tensors, the same wherever they are made; modelscope's side of the comparison reads it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

SEP = 102
EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"


def fill(tensors: Mapping[str, Tensor]) -> None:
    """Numbers by name, in place: so wide that beams differ by more than roundings, and answers end at any length.

    Args:
        tensors: by their released names; of tied ones only the embedding counts.
    """
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.normal_(generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            if "LayerNorm" in name or "layer_norm" in name or ".ln_" in name:
                tensor.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
            elif "word_embeddings" in name:
                tensor.mul_(0.06)
            elif tensor.ndim == 2:
                tensor.mul_(tensor.shape[1] ** -0.5)
            else:
                tensor.mul_(0.03)
        words, width = tensors[EMBEDDINGS].shape
        # About what the likeliest of all words gets.
        tensors["text_decoder.cls.predictions.bias"][SEP] += 0.054 * math.sqrt(2 * width * math.log(words))
