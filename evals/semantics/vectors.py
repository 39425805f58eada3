"""One vector for each thing, from each source: features of the encoder before, of the tokenizer's, and its codes'.

What is notable here: tokens are pooled batch by batch, so a large set takes no more memory than its vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common import dist
from common.data.images import to_float
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE
from evals.semantics.labelled import Labelled
from evals.semantics.probe import box_means
from evals.semantics.zero_shot import TextTower

BEFORE, AFTER, CODES = "before", "after", "codes"
"""Features of the encoder as it was; of the tokenizer's encoder; the vectors of its codes."""
EMBEDDED = "embedded"
"""What is behind a name whose vectors are of whole pictures in the space of the text tower: `after, embedded`."""
Tokens = Callable[[Tensor], dict[str, Tensor]]
"""Pixels (B, 3, S, S) in [0, 1] -> tokens (B, N, D) by source."""


def tokens_before(encoder: VisionEncoder) -> Tokens:
    """Z_I of an encoder."""
    return lambda pixels: {BEFORE: encoder(pixels)}


def tokens_after(model: VQRAE) -> Tokens:
    """Z_I of a tokenizer, and its codes' vectors (rows of C W)."""

    def read(pixels: Tensor) -> dict[str, Tensor]:
        reading: Any = model.read(pixels)
        codes = model.quantizer(reading.quantizer_input).codes
        return {AFTER: reading.features, CODES: model.quantizer.lookup(codes)}

    return read


@torch.inference_mode()
def vectors(
    tokens: Tokens,
    labelled: Labelled,
    size: int,
    device: torch.device,
    batch: int,
    tower: TextTower | None = None,
) -> Mapping[str, np.ndarray]:
    """(things, D) float32 by source, in the order of `labelled`; every rank calls it and gets the same.

    A thing's vector is the mean of its tokens. With a tower, features stand also as `SOURCE, embedded`: (pictures, E).
    """
    loader = labelled.loader(size, batch, dist.rank(), dist.world())
    parts: list[dict[str, np.ndarray]] = []
    first = dist.rank() * batch
    for loaded in tqdm(loader, unit="batch", desc="encode", disable=not dist.is_main()):
        pixels = to_float(loaded["pixels"].to(device))
        part = {}
        for source, found in tokens(pixels).items():
            if labelled.boxes is None:
                pooled = found.float().mean(1)
            else:
                pooled = box_means(found, labelled.boxes[first : first + len(pixels)])
            part[source] = pooled.cpu().numpy()
            if tower is not None and source != CODES:
                part[f"{source}, {EMBEDDED}"] = tower.pictures(found).cpu().numpy()
        parts.append(part)
        first += batch * dist.world()
    dealt = dist.gather_objects(parts)
    ordered = [dealt[at % len(dealt)][at // len(dealt)] for at in range(sum(map(len, dealt)))]
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}
