"""From a file to pixels. Whatever a camera, a scanner or a web crawl wrote becomes RGB, or a `CorruptImage`.

Pixels are uint8 (3, H, W) while they are stored and moved, and float32 in [0, 1] where a model sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from common.data.config import MAX_PIXELS
from common.errors import one_line, refusing

# Formats that Pillow decodes by itself; EPS, for one, would start another program.
Image.init()  # else Pillow knows only its five most common formats by name
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
EXTENSIONS = frozenset(
    f".{suffix}"
    for suffix in "jpg jpeg jfif png webp bmp gif tif tiff ppm pgm pbm jp2 avif".split()  # noqa: SIM905
)
MAX_ASPECT = 64  # resizing the shorter edge of a thinner picture would need a huge intermediate image


class CorruptImage(Exception):
    """An image that cannot be read. `reason` is one line and does not repeat the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_image(
    source: bytes | str | Path | Image.Image | CorruptImage, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image, given as encoded bytes, a path, or opened by Pillow (left as it is), as upright 8-bit RGB.
    What a source could not get is raised here.

    EXIF rotation is applied; gray, palette, CMYK and 16-bit pictures are converted; transparent ones are laid
    on white.

    Raises:
        CorruptImage: absent, no image, truncated, or over `max_pixels` (refused from its header).
    """
    if isinstance(source, CorruptImage):
        raise source
    with _opened(source, max_pixels) as image, _whole_only():
        image.load()
        return _to_rgb(_upright(image))


def read_image(path: Path) -> Image.Image:
    """`open_image` of a picture that cannot be left out: `UserError`, naming the file, where it cannot be read."""
    with refusing(path, CorruptImage):
        return open_image(path)


@contextmanager
def _whole_only() -> Iterator[None]:
    """Torn pictures are errors, also where a library has told Pillow, on import and for all, to fill them with gray."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_size(source: bytes | str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height, from the header alone and before any EXIF rotation.

    Raises:
        CorruptImage: absent, no image, or over `max_pixels`; what is damaged behind the header goes unseen.
    """
    with _opened(source, max_pixels) as image:
        return image.size


@contextmanager
def _opened(source: bytes | str | Path | Image.Image, max_pixels: int) -> Iterator[Image.Image]:
    """The image, nothing but its header read; whatever goes wrong with it from here on is a `CorruptImage`."""
    try:
        with _lent(source) as image:
            if image.width * image.height > max_pixels:
                raise CorruptImage(f"{image.width} x {image.height} pixels, over the limit of {max_pixels}")
            yield image
    except CorruptImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own check comes first for the largest ones
        found = re.search(r"\d+", str(error))
        pixels = found[0] if found else "too many"
        raise CorruptImage(f"{pixels} pixels, over the limit of {max_pixels}") from error
    except OSError as error:
        if error.strerror is not None:  # from the system (absent, no permission), not from a decoder
            raise CorruptImage(error.strerror) from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise CorruptImage("not an image, or of a format that is not read") from error
        raise CorruptImage(one_line(error)) from error
    except Exception as error:
        if isinstance(error, MemoryError):
            raise CorruptImage("not enough memory to decode it") from error
        # Decoders fed with damaged bytes raise nearly anything: SyntaxError, ValueError, struct.error ...
        raise CorruptImage(f"{type(error).__name__}: {one_line(error)}") from error


def _lent(source: bytes | str | Path | Image.Image) -> AbstractContextManager[Image.Image]:
    """Opened, and closed again unless it was open before."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # damaged EXIF data is no reason to lose sound pixels: they stay as they lie
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion would clip at 255
        gray = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
        return Image.fromarray(np.round(gray).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise CorruptImage("floating-point pixels, whose range nothing states")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


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
        short, long = sorted(image.size)
        if long > MAX_ASPECT * short:
            raise CorruptImage(f"{image.width} x {image.height} pixels, sides over {MAX_ASPECT}:1")
        if short != size:
            # The longer edge is rounded down, as torchvision's Resize does.
            width, height = (size if edge == short else int(size * edge / short) for edge in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
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
