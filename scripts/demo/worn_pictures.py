"""Pictures as a tokenizer or a generator might leave them: soft, ragged, blotched and noisy, but of the same objects.

What a detector has learned on true scenes alone is to hold for drawn ones; so it learns on these, made from true ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

SOFTNESS = 0.9  # px; the largest standard deviation of a blur
RAGGEDNESS = 0.6  # px; by how much an outline is pushed about, usually
BLOCK = 4  # px; what one code shows
BLOTCH = 0.03  # by how much a block's colour is off, usually
CAST = 0.03
NOISE = 0.04
WORN = 0.75  # share of the pictures; the others stay as they are


def worn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, S, S) in [0, 1], each worn to a degree of its own, 0 included; a function of the generator's state."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(len(pixels), *shape, generator=generator)

    def degree() -> Tensor:
        """In [0, 1], for each picture."""
        return torch.rand(len(pixels), 1, 1, 1, generator=generator)

    side = pixels.shape[-1]
    # Gentle fields of a few points each, so that what is pushed about stays whole.
    push = interpolate(normal(2, side // BLOCK, side // BLOCK), side, mode="bicubic") * degree()
    around = affine_grid(torch.eye(2, 3).repeat(len(pixels), 1, 1), list(pixels.shape), align_corners=False)
    places = around + push.permute(0, 2, 3, 1) * (RAGGEDNESS * 2 / side)
    changed = grid_sample(pixels, places, padding_mode="border", align_corners=False)
    changed = _blurred(changed, SOFTNESS * degree())
    changed = changed + BLOTCH * degree() * interpolate(normal(3, side // BLOCK, side // BLOCK), side)
    changed = changed + CAST * normal(3, 1, 1) + NOISE * degree() * normal(3, side, side)
    return torch.where(degree() < WORN, changed.clamp(0, 1), pixels)


def _blurred(pixels: Tensor, deviation: Tensor) -> Tensor:
    """Gaussian; `deviation` (B, 1, 1, 1) in px."""
    batch, channels, height, width = pixels.shape
    offsets = torch.arange(-2, 3).float()
    kernel = torch.exp(-(offsets**2) / (2 * deviation.view(-1, 1).clamp(min=0.05) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    rows = pad(pixels, (2, 2, 2, 2), mode="replicate").view(1, batch * channels, height + 4, width + 4)
    rows = conv2d(rows, kernel[:, None, :, None], groups=batch * channels)
    return conv2d(rows, kernel[:, None, None, :], groups=batch * channels).view_as(pixels)
