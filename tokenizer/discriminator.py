"""TiTok's discriminator: a small patch classifier that blurs before it subsamples.

Conv5 - LeakyReLU; then per stage Conv3 - blur [1,3,3,1] with stride 2 - GroupNorm - LeakyReLU, the width
doubling from the second stage on; adaptive max pool to a fixed grid; Conv1 - LeakyReLU - Conv5 to one logit
per cell. LeakyReLU's slope is 0.1. TiTok's values (128, 3, 16) make 128/128/256/512 channels, 16 x 16 logits.
Source: bytedance/1d-tokenizer, `modeling/modules/discriminator.py`. One difference: TiTok feeds pixels in
[0, 1] as they are; here they are centred to [-1, 1] first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import Count, between, configclass


@configclass
class DiscriminatorConfig:
    """Sizes of the discriminator; TiTok's are `width: 128, stages: 3, pool: 16`."""

    width: Annotated[int, between(1, 2**14)]
    """Channels after the first convolution; stage i has width * max(1, 2^i) ones (i from 0)."""
    stages: Annotated[int, between(1, 12)]
    """Halvings of the resolution."""
    pool: Annotated[int, between(1, 1024)]
    """Side of the grid of logits."""
    norm_groups: Count = 32

    def __post_init__(self) -> None:
        if self.width % self.norm_groups:
            raise ValueError(
                f"width: expected a multiple of norm_groups ({self.norm_groups}), found {self.width}"
            )


class BlurPool(nn.Module):
    """Halves the resolution (rounding up) after a binomial-like blur, per channel, with zero padding."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(taps, taps)
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        channels, height, width = x.shape[1:]
        # "Same" padding of a 4-tap kernel at stride 2: one on each side, and one more behind an odd side.
        x = F.pad(x, (1, 1 + width % 2, 1, 1 + height % 2))
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, -1, -1), stride=2, groups=channels)


class Discriminator(nn.Module):
    """(B, 3, H, W) pixels in [0, 1] -> (B, 1, pool, pool) logits; positive means real."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width] + [config.width * 2**stage for stage in range(config.stages)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, padding=2), nn.LeakyReLU(0.1)]
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                BlurPool(),
                nn.GroupNorm(config.norm_groups, after),
                nn.LeakyReLU(0.1),
            ]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveMaxPool2d(config.pool)
        self.to_logits = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 1), nn.LeakyReLU(0.1), nn.Conv2d(widths[-1], 1, 5, padding=2)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.to_logits(self.pool(self.features(pixels * 2.0 - 1.0)))
