"""From a file to pixels. Whatever a camera, a scanner or a web crawl wrote becomes RGB, or a `CorruptImage`.

Pixels are uint8 (3, H, W) while they are stored and moved, and float32 in [0, 1] where a model sees them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data import decoding
from common.data.config import MAX_PIXELS
from common.data.decoding import EXTENSIONS as EXTENSIONS
from common.data.decoding import FORMATS as FORMATS
from common.data.decoding import CorruptImage as CorruptImage
from common.data.decoding import Picture, using_picture
from common.data.rgb import to_rgb, turn_of
from common.errors import refusing

MAX_ASPECT = 64  # resizing the shorter edge of a thinner picture would need a huge intermediate image
SPARE = 2  # times the size that is asked for: as large a JPEG is decoded at least, before it is resized


def open_image(source: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image, given as encoded bytes, a path, or opened by Pillow (left as it is), as upright 8-bit RGB.

    EXIF rotation and colour profiles are applied; gray, palette, CMYK and 16-bit pictures are converted; transparent
    ones are laid on white (`common/data/rgb.py`).

    Raises:
        CorruptImage: absent, no image, truncated, or over `max_pixels` (refused from its header).
    """
    return using_picture(source, max_pixels, _upright)


def _upright(image: Image.Image) -> Image.Image:
    rgb = to_rgb(image)
    turn = turn_of(image)
    return rgb if turn is None else rgb.transpose(turn)


def open_resized(
    source: Picture, size: int, max_pixels: int = MAX_PIXELS, exact: bool = False
) -> Image.Image:
    """`open_image`, its shorter edge resized to `size` px (bicubic, antialiased), its longer one rounded down.

    A JPEG that is much larger is decoded at 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time: as long as
    `SPARE` times `size` is left of its shorter edge, so that what is resized still holds more than what is asked for.
    Photographs then differ from wholly decoded ones by 0.5 to 0.8 levels of 255 on average (42 to 55 dB). With once
    `size` left it would be 1.8 levels.

    Args:
        exact: decode all of it, as `open_image` does.

    Raises:
        CorruptImage: as `open_image`, or one side is more than `MAX_ASPECT` times the other.
    """

    def use(image: Image.Image) -> Image.Image:
        target = resized_to(image.size, size)
        scaled = None
        if not exact and not isinstance(source, Image.Image) and min(image.size) >= 2 * SPARE * size:
            scaled = image.draft(None, (SPARE * size, SPARE * size))
        if scaled is None:
            return _resized(_upright(image), size)
        # Sides are rounded up when they are divided: the box is what of them is picture.
        small = to_rgb(image).resize(target, Image.Resampling.BICUBIC, box=scaled[1])
        turn = turn_of(image)
        return small if turn is None else small.transpose(turn)

    return using_picture(source, max_pixels, use)


def resized_to(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height once the shorter edge is `size` px; the longer one is rounded down, as by torchvision's Resize.

    Raises:
        CorruptImage: one side is more than `MAX_ASPECT` times the other.
    """
    short, long = sorted(shape)
    if long > MAX_ASPECT * short:
        raise CorruptImage(f"{shape[0]} x {shape[1]} pixels, sides over {MAX_ASPECT}:1")
    width, height = (size if edge == short else int(size * edge / short) for edge in shape)
    return width, height


def _resized(image: Image.Image, size: int) -> Image.Image:
    target = resized_to(image.size, size)
    return image if min(image.size) == size else image.resize(target, Image.Resampling.BICUBIC)


def read_image(path: Path) -> Image.Image:
    """`open_image` of a picture that cannot be left out: `UserError`, naming the file, where it cannot be read."""
    with refusing(path, CorruptImage):
        return open_image(path)


def read_size(source: Picture, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """`decoding.read_size`, with the limit that recipes have by default."""
    return decoding.read_size(source, max_pixels)


class ImageTransform:
    """Shorter edge to `size` (bicubic, antialiased), then a square crop, then perhaps a left-right flip."""

    def __init__(self, size: int, crop: Literal["random", "center"], flip: bool) -> None:
        self.size, self.crop, self.flip = size, crop, flip

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """RGB image -> uint8 (3, size, size). Random draws come from `rng`, in fixed number and order.

        Raises:
            CorruptImage: one side is more than `MAX_ASPECT` times the other.
        """
        size = self.size
        image = _resized(image, size)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        across, down, mirror = rng.random(3)
        if self.crop == "random":
            left, top = int(across * (image.width - size + 1)), int(down * (image.height - size + 1))
        pixels = np.asarray(image)[top : top + size, left : left + size]
        if self.flip and mirror < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 in [0, 1]."""
    return pixels.to(torch.float32) / 255


def to_uint8(pixels: Tensor) -> Tensor:
    """Any float in [0, 1] -> uint8: clamped, then rounded (truncation would darken by half a level)."""
    return (pixels.detach().to(torch.float32).clamp(0, 1) * 255).round().to(torch.uint8)


def to_pil(pixels: Tensor) -> Image.Image:
    """(3, H, W), uint8 or float in [0, 1] -> an RGB image."""
    if pixels.dtype != torch.uint8:
        pixels = to_uint8(pixels)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
