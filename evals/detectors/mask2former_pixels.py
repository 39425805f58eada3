"""How a picture is prepared for Mask2Former: as whoever trained the weights prepares it.

- mmdetection's weights: mmdetection 2.28.2's test pipeline, which GenEval was made with: into 1333 x 800 px with the
  ratio kept, padded to multiples of 32 px with grey (128), and normalised after that, padding and all.
- all others: transformers' own image processor, which stretches both sides to multiples of 32 px.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from common.errors import refusing
from evals.detectors.mask2former_instances import Size

LONG, SHORT, DIVISOR = 1333, 800, 32  # px
PADDING = 128.0  # of 255
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

Prepare = Callable[[Image.Image], tuple[Tensor, Size]]
"""An RGB picture -> what the detector sees, (3, H, W) float32; and (height, width) of the picture within it."""


def as_mmdetection(picture: Image.Image) -> tuple[Tensor, Size]:
    """`Prepare` for mmdetection's weights."""
    width, height = picture.size
    scale = min(LONG / max(width, height), SHORT / min(width, height))
    resized = (int(height * scale + 0.5), int(width * scale + 0.5))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float()
    # No antialias, and rounded: what OpenCV's bilinear resizing of 8-bit pictures gives, up to one level.
    pixels = interpolate(pixels, resized, mode="bilinear", align_corners=False).round()[0]
    bottom, right = (-side % DIVISOR for side in resized)
    pixels = pad(pixels, (0, right, 0, bottom), value=PADDING)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None], resized


def as_transformers(folder: Path) -> Prepare:
    """`Prepare` by the image processor of a folder, or the library's default where it has none.

    Raises:
        UserError: the folder's is none.
    """
    from transformers import Mask2FormerImageProcessorPil

    with refusing(f"{folder / 'preprocessor_config.json'}: no image processor of a Mask2Former"):
        there = (folder / "preprocessor_config.json").is_file()
        processor = (
            Mask2FormerImageProcessorPil.from_pretrained(folder) if there else Mask2FormerImageProcessorPil()
        )

    def prepare(picture: Image.Image) -> tuple[Tensor, Size]:
        given = processor(picture, return_tensors="pt")
        rows, columns = given["pixel_mask"][0].any(1), given["pixel_mask"][0].any(0)
        return given["pixel_values"][0].float(), (int(rows.sum()), int(columns.sum()))

    return prepare
