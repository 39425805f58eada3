"""The named protocols of a reconstruction score: how a picture becomes a square, and what is recorded.

`titok`: shorter edge resized, centre crop (TiTok's evaluation, and most papers'). `squash`: both sides
resized without a crop, as some published numbers were made; those also computed SSIM of [0, 1] images with a
data range of 2, so under this protocol that too-high number is reported beside the right one.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.config import SourceConfig
from common.data.evaluation import EvaluationLoader, evaluation_loader
from common.metrics.reconstruction import PSNR_CEILING
from common.models.vqrae import VQRAE

Protocol = Literal["titok", "squash"]
_RESIZE = {
    "titok": "shorter edge, bicubic, antialiased (Pillow)",
    "squash": "both sides, bicubic, antialiased (Pillow)",
}


class Squash:
    """RGB picture -> uint8 (3, size, size), both sides resized."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        resized = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(resized).transpose(2, 0, 1))


def open_pictures(
    path: str,
    protocol: Protocol,
    size: int,
    batch: int,
    rank: int,
    world: int,
    workers: int,
    limit: int | None,
) -> EvaluationLoader:
    """Batches of a folder, or of WebDataset shards (a path that ends in `.tar`); each once over ranks.

    Raises:
        UserError: nothing to read there; while iterating, a picture that cannot be read, because a score over
            fewer pictures is another score.
    """
    kind: Literal["shards", "folder"] = "shards" if path.endswith(".tar") else "folder"
    source = SourceConfig(kind=kind, path=path, unconditional=True)
    return evaluation_loader(
        source,
        size,
        batch,
        rank,
        world,
        workers=workers,
        limit=limit,
        whole_batches=True,
        transform=Squash(size) if protocol == "squash" else None,
    )


def describe(protocol: Protocol, size: int, model: VQRAE, lpips: bool, fid: bool) -> dict[str, Any]:
    """What a reader of results.json needs to repeat or compare the scores."""
    patch, (h, w) = model.encoder.patch_size, model.config.grid
    described: dict[str, Any] = {
        "name": protocol,
        "size": size,
        "resize": _RESIZE[protocol],
        "crop": "center" if protocol == "titok" else "none",
        "encoder_size": [h * patch, w * patch],
        "decoder_size": [h * model.config.output_patch_size, w * model.config.output_patch_size],
        "resize_between": "bicubic, antialiased, where sizes differ",
        "pixels": "rounded to 8 bits",
        "psnr": f"per image in RGB, then mean; at most {PSNR_CEILING:g} dB",
        "ssim": "data range 1, Gaussian window of 11 px (sigma 1.5), mean over RGB",
    }
    if lpips:
        described["lpips"] = "version 0.1, VGG16"
    if fid:
        described["rfid"] = "torch-fidelity's Inception, 2048 features, resized as TensorFlow 1, float64 sums"
    return described
