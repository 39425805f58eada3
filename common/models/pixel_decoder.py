"""The symmetric decoder: the encoder's own layers run the other way, from code vectors to pixels.

No convolution and no upsampling: one token becomes one q x q square through a single linear map.

Legend: B images, N = h w tokens, D encoder width, E code width, q output patch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from common.models.vision_encoder import Grid, VisionEncoder, interpolate_positions


class PixelDecoder(nn.Module):
    """Code vectors -> RGB.

    Args:
        family: whose layers to stack.
        config: the encoder's config; depth, width and heads are taken from it.
        code_dim: E.
        output_patch_size: q; q = p keeps the encoder's resolution.
        grid: (h, w) of the training resolution; other grids interpolate the positions.
    """

    def __init__(
        self,
        family: type[VisionEncoder],
        config: PreTrainedConfig,
        code_dim: int,
        output_patch_size: int,
        grid: Grid,
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.output_patch_size = output_patch_size
        self.project = nn.Linear(code_dim, width)
        self.positions = nn.Parameter(torch.zeros(1, *grid, width))
        self.layers = family.layers(config)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.to_pixels = nn.Linear(width, 3 * output_patch_size**2)

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Code vectors (B, N, E), raster order -> RGB around [0, 1], not clamped, (B, 3, h q, w q)."""
        hidden = self.project(vectors.to(self.project.weight.dtype)) + interpolate_positions(
            self.positions, grid
        )
        hidden = self.norm(self.layers(hidden).last_hidden_state)
        return squares_to_image(self.to_pixels(hidden), grid)


def squares_to_image(squares: Tensor, grid: Grid) -> Tensor:
    """(B, h w, 3 q q) -> (B, 3, h q, w q)."""
    side = round((squares.shape[-1] // 3) ** 0.5)
    squares = squares.unflatten(1, grid).unflatten(3, (3, side, side))  # B h w 3 q q
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
