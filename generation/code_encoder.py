"""Pictures to codes, many at a time: the same numbers as `VQRAE.encode`, with the codebook transformed only once."""

from __future__ import annotations

import torch
from torch import Tensor

from common.data.images import to_float
from common.models.quantizer import nearest_codes
from common.models.vision_encoder import grid_of
from common.models.vqrae import VQRAE
from common.training.engine import Precision, autocast


class CodeEncoder:
    """A frozen VQRAE at work.

    Args:
        vqrae: float32, on its device.
        precision: of the encoder; the quantizer is float32.
    """

    def __init__(self, vqrae: VQRAE, precision: Precision) -> None:
        self.vqrae, self.precision = vqrae.eval().requires_grad_(False), precision
        self.table = vqrae.quantizer.transform(vqrae.quantizer.codebook)  # C W, (K, E)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, h q, w q) -> codes (B, h, w) int64, on the VQRAE's device."""
        pixels = to_float(pixels.to(self.table.device, non_blocking=True))
        with autocast(self.precision, pixels.device):
            read = self.vqrae.read(self.vqrae.encoder_pixels(pixels))
        codes = nearest_codes(self.vqrae.quantizer.embed(read.quantizer_input), self.table)
        return codes.unflatten(1, grid_of(pixels, self.vqrae.config.output_patch_size))
