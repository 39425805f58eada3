"""A projector that starts from standardised features, in the place of the few directions that carry most of their size.

The features of a tower share a large mean, and their channels differ in scale; so a fresh projector passes on little
of what tells one patch from another until it has learned to. Statistics of the features are folded into its first
layer: the model stays the library's own, and only its start is another.
"""

from __future__ import annotations

import torch

from common.models.vision_encoder import VisionEncoder
from common.training.engine import Precision
from understanding.assemble import read_features
from understanding.conversation import BadSample
from understanding.dataset import ConversationDataset
from understanding.objective import LanguageSide

IMAGES = 256  # the first ones of the data: per-channel statistics need few


@torch.no_grad()
def standardize(
    side: LanguageSide, tower: VisionEncoder, dataset: ConversationDataset, precision: Precision
) -> None:
    """Fold per-channel mean and standard deviation of Z_I into the projector's first layer: W z + b becomes
    W (z - mean) / std + b. The same on all ranks, which read the same images."""
    pixels = []
    for index in dataset.with_images():
        try:
            pixels += list(dataset.read(index).pixel_values)
        except BadSample:  # counted when it is drawn
            continue
        if len(pixels) >= IMAGES:
            break
    if not pixels:
        return
    found = [read_features(tower, torch.stack(some), precision) for some in _chunks(pixels)]
    features = torch.cat([part.flatten(0, 1).float() for part in found if part is not None])
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    first = side.llava.model.multi_modal_projector.linear_1
    weight = first.weight.float() / std
    first.bias.copy_(first.bias.float() - weight @ mean)
    first.weight.copy_(weight)


def _chunks(pixels: list[torch.Tensor], size: int = 32) -> list[list[torch.Tensor]]:
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]
