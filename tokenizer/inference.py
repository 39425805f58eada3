"""A trained VQRAE at work: load it, and put pictures of any size through it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.models.vision_encoder import Grid
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae


def load_model(source: str, device: torch.device | str = "cpu") -> tuple[VQRAE, Path]:
    """The VQRAE at `source` (see `load_vqrae`), float32 and frozen, on `device`; and the folder of its weights."""
    model, folder = load_vqrae(source)
    return model.eval().requires_grad_(False).to(device), folder


def reconstruct(model: VQRAE, pixels: Tensor, grid: Grid | None = None) -> tuple[Tensor, Tensor]:
    """Encode, quantize and decode pictures of any size.

    Args:
        pixels: (B, 3, H, W) in [0, 1].
        grid: (h, w) tokens; default the model's training grid.

    Returns:
        The reconstruction (B, 3, H, W) in [0, 1] and its codes (B, h, w). The picture is resized once, to the
        encoder's h p x w p, and the decoder's h q x w q once, back to H x W (bicubic, antialiased); not at
        all where sizes agree.
    """
    h, w = grid or model.config.grid
    patch = model.encoder.patch_size
    with torch.inference_mode():
        read = model.read(_resized(pixels, (h * patch, w * patch)))
        codes = model.quantizer(read.quantizer_input).codes.unflatten(1, (h, w))
        return _resized(model.decode(codes), (pixels.shape[-2], pixels.shape[-1])), codes


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
