"""From any picture to upright 8-bit sRGB. Training, evaluations and all that a model is shown go through here.

- Transparent pictures are laid on white.
- A colour profile that moves colours is obeyed, so that pixels are what a screen shows; one that is damaged, or of
  another kind than its picture, is not.
- Gray of more than 8 bits is scaled, not cut. Pillow does neither, and gives 12 bits out as if they were 16.
- Pixels whose range nothing states (floating point, or integers beyond 16 bits) are refused: a guess would be silent.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

from common.data.decoding import MOST_PROFILE, CorruptImage

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _WHITE_IS_ZERO, _MOST = (
    258,
    262,
    281,
)  # TIFF's tags: BitsPerSample, PhotometricInterpretation, MaxSampleValue
_SENSOR = 4095  # the largest sample of 12 bits, which is what most cameras record
_EVEN = 3  # levels; a profile that moves no colour by more is sRGB but for its name
_GRID = np.stack(np.meshgrid(*[np.linspace(0, 255, 9).astype(np.uint8)] * 3), axis=-1).reshape(27, 27, 3)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How a loaded picture has to be turned to be upright. None: not at all, also where its EXIF data is damaged."""
    with suppress(Exception):  # no reason to lose sound pixels: they stay as they lie
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Loads a picture, and gives it as 8-bit sRGB, not turned; a picture that is that already is given back itself.

    Raises:
        CorruptImage: pixels whose range nothing states. Anything else: as Pillow's decoders raise it.
    """
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if tiles else ""  # how samples lie in the file; gone once it is loaded
    image.load()
    if image.mode == "F":
        raise CorruptImage("floating-point pixels, whose range nothing states")
    clear = _clear_value(image, raw)
    if image.mode.startswith("I"):
        image, clear = _eight_bits(image, clear), None
    profile = image.info.get("icc_profile")
    see_through = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or clear is not None
    if not see_through:
        return _to_srgb(image, profile)
    if clear is not None:
        image.info["transparency"] = clear
    whole = image.convert("RGBA")
    opaque = _to_srgb(image.convert("L") if image.mode in ("L", "LA") else whole.convert("RGB"), profile)
    shown = opaque.convert("RGBA")
    shown.putalpha(whole.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), shown).convert("RGB")


def _clear_value(image: Image.Image, raw: str) -> Any:
    """The value, in the picture's samples as they are now, that stands for full transparency; None without one."""
    clear = image.info.get("transparency")
    if (
        isinstance(clear, int) and image.mode == "L"
    ):  # Pillow widens samples of 2 and 4 bits, and not their value
        return clear * {"L;2": 85, "L;4": 17}.get(raw, 1)
    if (
        isinstance(clear, tuple) and "RGB;16" in raw
    ):  # it takes the upper halves of samples, and the whole value
        return tuple(value >> 8 for value in clear)
    return clear


def _eight_bits(image: Image.Image, clear: int | None) -> Image.Image:
    """Gray of 16 or 32 bits -> of 8; with alpha where `clear` is a value that stands for transparency."""
    gray = np.asarray(image).astype(np.int64)
    if gray.size and not 0 <= gray.min() <= gray.max() <= 65535:
        raise CorruptImage(f"pixels from {gray.min()} to {gray.max()}, whose range nothing states")
    tags: Any = getattr(image, "tag_v2", {})
    white = _white(gray, tags) if image.mode != "I" else 65535
    levels = np.round((white - gray if tags.get(_WHITE_IS_ZERO) == 0 else gray) * (255 / white))
    result = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if clear is not None:
        result.putalpha(Image.fromarray(np.where(gray == clear, 0, 255).astype(np.uint8)))
    result.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return result


def _white(gray: np.ndarray, tags: Any) -> int:
    """The sample that is white. A TIFF may hold 12 bits as they are, and often does not say so: they lie within
    a sixteenth of the range, which of a photograph of 16 bits would be near black."""
    if not tags:
        return 65535
    stated = tags.get(_MOST, 65535)
    stated = int(stated[0] if isinstance(stated, tuple) else stated)
    most = int(gray.max(initial=0))
    if tags.get(_BITS) == (12,) or most <= _SENSOR:
        return _SENSOR
    return stated if most <= stated < 65535 else 65535


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """An opaque picture as sRGB, by its profile if there is a sound one."""
    if isinstance(profile, bytes) and 128 <= len(profile) <= MOST_PROFILE:
        for mode in (image.mode, "RGB"):  # a gray or indexed picture may have a profile of RGB
            transform = _transform(profile, mode)
            if transform is not None:
                given = image if image.mode == mode else image.convert(mode)
                return _applied(transform, given)
    return image if image.mode == "RGB" else image.convert("RGB")


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    shown = ImageCms.applyTransform(image, transform)
    assert shown is not None  # only in place
    return shown


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB; None where it is damaged, not for pictures of `mode`, or changes nothing."""
    space = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}.get(mode)
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if space is None or source.profile.xcolor_space != space:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK":
            ramp = Image.fromarray(_GRID if mode == "RGB" else _GRID[..., 0])
            moved = np.asarray(_applied(transform, ramp), np.int16) - np.asarray(
                ramp.convert("RGB"), np.int16
            )
            if np.abs(moved).max() <= _EVEN:
                return None
    except Exception:  # littleCMS and Pillow raise nearly anything for a damaged one
        return None
    return transform
