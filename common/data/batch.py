"""A sample, and the batch that samples are laid together to."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor


class Sample(TypedDict):
    pixels: Tensor  # uint8 (3, S, S)
    caption: str | None
    key: str  # unique in its source
    skipped: list[str]  # `source/key: reason` of unreadable images, which this one stands for


class Batch(TypedDict):
    pixels: Tensor  # uint8 (B, 3, S, S)
    caption: list[str | None]
    key: list[str]
    skipped: list[str]


def collate(samples: list[Sample], size: int) -> Batch:
    pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    for place, sample in enumerate(samples):
        pixels[place] = sample["pixels"]
    return {
        "pixels": pixels,
        "caption": [sample["caption"] for sample in samples],
        "key": [sample["key"] for sample in samples],
        "skipped": [line for sample in samples for line in sample["skipped"]],
    }
