"""From encoded bytes to a picture as Pillow decodes it. The one place that opens pictures; why it cannot is said here.

What is notable here: what no pixel depends on must not cost a picture. A PNG whose texts, or whose colour profile, are
larger than Pillow allows is read once more without them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageFile

from common.data.config import MAX_PIXELS
from common.errors import one_line

Result = TypeVar("Result")

# Formats that Pillow decodes by itself; EPS, for one, would start another program.
Image.init()  # else Pillow knows only its five most common formats by name
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
EXTENSIONS = frozenset(
    f".{suffix}"
    for suffix in "jpg jpeg jfif png webp bmp gif tif tiff ppm pgm pbm jp2 avif heic heif".split()  # noqa: SIM905
)
"""Of files taken for pictures. HEIC is read where pillow-heif is installed; else it is refused, and counted."""
MOST_PROFILE = 1 << 24
"""Bytes of a colour profile that is read; the largest that are in use have a few million."""
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_UNREAD = (  # the first bytes of what is found under pictures' names
    (rb"$", "not an image: an empty file"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "HEIC, which is not read; convert it, or `bash scripts/setup.sh heic`"),
    (rb"\xff\x0a|.{4}JXL ", "JPEG XL, which is not read; convert it"),
    (rb"8BPS", "a Photoshop file, which is not read; convert it"),
    (rb"%PDF", "a PDF, not an image"),
    (rb".{4}ftyp", "a video, not an image"),
    (rb"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file itself"),
    (rb"\s*(<!--.*?-->\s*)?<(!doctype\s+)?html", "a web page, not an image"),
    (rb"\s*(<\?xml.*?>\s*)?(<!.*?>\s*)*<svg", "SVG, which is not read; convert it"),
)
_SNIFFED = 512  # bytes


class CorruptImage(Exception):
    """An image that cannot be read. `reason` is one line and does not repeat the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Readable = bytes | str | Path | Image.Image
Picture = Readable | CorruptImage
"""Encoded bytes, a path, a picture that Pillow has opened, or why a source could not get it."""


def using_picture(source: Picture, max_pixels: int, use: Callable[[Image.Image], Result]) -> Result:
    """`use` of a picture, of which no more than the header is read yet. It may be called twice.

    Raises:
        CorruptImage: absent, no image, damaged, or over `max_pixels` (refused from its header); whatever `use` raises.
    """
    if isinstance(source, CorruptImage):
        raise source
    with _reasons(source, max_pixels):
        try:
            return _use(source, max_pixels, use)
        except ValueError as error:
            if isinstance(source, Image.Image) or not re.search("PngImagePlugin|MAX_TEXT", str(error)):
                raise
            content, profile = _without_texts(
                source if isinstance(source, bytes) else Path(source).read_bytes()
            )

            def use_with_profile(image: Image.Image) -> Result:
                if profile is not None:
                    image.info["icc_profile"] = profile
                return use(image)

            return _use(content, max_pixels, use_with_profile)


def read_size(source: Picture, max_pixels: int) -> tuple[int, int]:
    """Width and height, from the header alone and before any EXIF rotation.

    Raises:
        CorruptImage: absent, no image, or over `max_pixels`; what is damaged behind the header goes unseen.
    """
    return using_picture(source, max_pixels, lambda image: image.size)


def read_notes(path: Path, verify: bool = False) -> dict[Any, Any]:
    """What a picture says about itself (the text chunks of a PNG); `verify` checks all its checksums too.

    Raises:
        CorruptImage: absent, no image, or damaged.
    """
    with _reasons(path, MAX_PIXELS), Image.open(path, formats=FORMATS) as image:
        notes = dict(image.info)  # `text` would decode
        if verify:
            image.verify()
        return notes


def _use(source: Readable, max_pixels: int, use: Callable[[Image.Image], Result]) -> Result:
    with _lent(source) as image, _whole_only():
        if image.width * image.height > max_pixels:
            raise CorruptImage(f"{image.width} x {image.height} pixels, over the limit of {max_pixels}")
        return use(image)


def _lent(source: Readable) -> AbstractContextManager[Image.Image]:
    """Opened, and closed again unless it was open before."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    with suppress(Exception):  # absent, or made for another Pillow
        import pillow_heif

        pillow_heif.register_heif_opener()
        return (*FORMATS, "HEIF")
    return FORMATS


@contextmanager
def _whole_only() -> Iterator[None]:
    """Torn pictures are errors, also where a library has told Pillow, on import and for all, to fill them with gray."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@contextmanager
def _reasons(source: Readable, max_pixels: int) -> Iterator[None]:
    """Inside, whatever goes wrong with a picture is a `CorruptImage`."""
    try:
        yield
    except CorruptImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own check comes first for the largest ones
        found = re.search(r"\d+", str(error))
        raise CorruptImage(
            f"{found[0] if found else 'too many'} pixels, over the limit of {max_pixels}"
        ) from error
    except OSError as error:
        if error.strerror is not None:  # from the system (absent, no permission), not from a decoder
            raise CorruptImage(error.strerror) from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise CorruptImage(_what_else(source)) from error
        raise CorruptImage(one_line(error)) from error
    except MemoryError as error:
        raise CorruptImage("not enough memory to decode it") from error
    except Exception as error:
        # Decoders fed with damaged bytes raise nearly anything: SyntaxError, ValueError, struct.error ...
        raise CorruptImage(f"{type(error).__name__}: {one_line(error)}") from error


def _what_else(source: Picture) -> str:
    """What it is that is no picture of a format that is read."""
    head = source[:_SNIFFED] if isinstance(source, bytes) else b"?"
    if isinstance(source, str | Path):
        with suppress(OSError), Path(source).open("rb") as file:
            head = file.read(_SNIFFED)
    for start, what in _UNREAD:
        if re.match(start, head, re.IGNORECASE | re.DOTALL):
            return what
    return "not an image, or of a format that is not read"


def _without_texts(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without its texts but a small XMP, which may hold the orientation; and its colour profile, taken out."""
    kept, profile, at = [content[:8]], None, 8
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + length]
        xmp = body.startswith(b"XML:com.adobe.xmp\0\0") and length < ImageFile.SAFEBLOCK
        if kind == b"iCCP":
            unpack = zlib.decompressobj()
            with suppress(zlib.error):
                profile = unpack.decompress(body[body.find(b"\0") + 2 :], MOST_PROFILE)
                profile = profile if unpack.eof else None
        if kind not in _TEXT_CHUNKS or xmp:
            kept.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept), profile
