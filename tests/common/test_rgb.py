"""Odd but sound pictures: the pixels that they show, whatever they are stored as. Each is two halves of a colour."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from common.data.images import EXTENSIONS, CorruptImage, open_image, open_resized, read_size

RED, BLUE, WHITE = (220, 30, 30), (30, 30, 220), (255, 255, 255)
SIDE = 8


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(colour: int, depth: int, rows: list[bytes], *between: bytes, after: bytes = b"") -> bytes:
    """A PNG of `SIDE` x `SIDE` by hand; `between` stands before the pixels, `after` behind them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + pixels + after + chunk(b"IEND", b"")


def halves(upper: bytes, lower: bytes) -> list[bytes]:
    return [upper] * (SIDE // 2) + [lower] * (SIDE // 2)


def deep(colour: tuple[int, ...]) -> bytes:
    """A colour in samples of 16 bits."""
    return struct.pack(">3H", *(257 * level for level in colour))


RGB8 = halves(bytes(RED) * SIDE, bytes(BLUE) * SIDE)


def tiff(samples: bytes, bits: int, photometric: int = 1, kind: int = 1, most: int | None = None) -> bytes:
    """A gray TIFF of one strip, little endian; `kind`: 1 unsigned, 2 signed."""
    tags = [
        (256, SIDE),
        (257, SIDE),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 0),
        (277, 1),
        (278, SIDE),
    ]
    tags += [(279, len(samples)), *([(281, most)] if most else []), (339, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    body = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0) + samples


def words(upper: int, lower: int, kind: str = "<u2") -> bytes:
    return np.repeat([upper, lower], SIDE * SIDE // 2).astype(kind).tobytes()


def twelve(upper: int, lower: int) -> bytes:
    """Samples of 12 bits, two in three bytes."""

    def row(value: int) -> bytes:
        return bytes([value >> 4, (value & 15) << 4 | value >> 8, value & 255]) * (SIDE // 2)

    return b"".join(halves(row(upper), row(lower)))


def shown(content: bytes) -> list[tuple[int, ...]]:
    image = open_image(content)
    assert image.mode == "RGB" and image.size == (SIDE, SIDE)
    pixels = np.asarray(image)
    assert (pixels[: SIDE // 2] == pixels[0, 0]).all() and (pixels[SIDE // 2 :] == pixels[-1, 0]).all()
    return [tuple(pixels[0, 0].tolist()), tuple(pixels[-1, 0].tolist())]


def gray(*values: int) -> list[tuple[int, ...]]:
    return [(value,) * 3 for value in values]


def profile(primaries_swapped: bool = False, padding: int = 0) -> bytes:
    """The profile of sRGB, or of a screen whose red is green and whose green is red."""
    found = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if primaries_swapped:
        count = struct.unpack(">I", found[128:132])[0]
        at = {bytes(found[start : start + 4]): start for start in range(132, 132 + 12 * count, 12)}
        red, green = at[b"rXYZ"] + 4, at[b"gXYZ"] + 4
        found[red : red + 8], found[green : green + 8] = found[green : green + 8], found[red : red + 8]
    found += np.random.default_rng(0).bytes(padding)
    found[:4] = struct.pack(">I", len(found))
    return bytes(found)


def gray_profile(gamma: float) -> bytes:
    """By hand: white point and gamma."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, int(gamma * 256))
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), len(curve))
    rest = struct.pack(">4sI4s4s4s", b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head = (rest + bytes(12) + b"acsp").ljust(64, b"\0") + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    whole = head.ljust(124, b"\0") + tags + white + curve
    return struct.pack(">I", len(whole) + 4) + whole


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOTE = b"workflow\0\0" + zlib.compress(b"x" * (3 << 20))
CLEAR = b"tRNS"
PILED = b"".join(chunk(b"iTXt", b"n%d\0\1\0\0\0" % n + zlib.compress(b"y" * (1 << 20))) for n in range(70))
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="a" tiff:Orientation="3"/>'
SWAPPED = profile(primaries_swapped=True)
LARGE = profile(primaries_swapped=True, padding=3 << 20)
COPIED = Image.fromarray(np.array([[RED], [BLUE]], np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
FLAT, INK = Image.new("L", (SIDE, SIDE), 55), Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 155))
ALPHA = Image.fromarray(np.repeat(np.array([0, 255], np.uint8), SIDE * SIDE // 2).reshape(SIDE, SIDE))
HALF_CLEAR = Image.merge("RGBA", (*COPIED.split(), ALPHA))
TURNED = [(30, 220, 30), BLUE]  # what a screen shows of red and blue by the profile `SWAPPED`


@pytest.mark.parametrize(
    ("content", "colours"),
    {
        "gray of 16 bits with a transparent value": (
            png(0, 16, halves(b"\x0a\x0a" * SIDE, b"\xc8\xc8" * SIDE), chunk(CLEAR, b"\x0a\x0a")),
            gray(255, 200),
        ),
        "gray of 16 bits whose transparent value nothing has": (
            png(0, 16, halves(b"\x0a\x0a" * SIDE, b"\xc8\xc8" * SIDE), chunk(CLEAR, b"\x0a\x0b")),
            gray(10, 200),
        ),
        "gray of 2 bits with one": (
            png(0, 2, halves(b"\x55" * (SIDE // 4), b"\xaa" * (SIDE // 4)), chunk(CLEAR, b"\0\1")),
            gray(255, 170),
        ),
        "gray of 4 bits with one": (
            png(0, 4, halves(b"\x55" * (SIDE // 2), b"\xaa" * (SIDE // 2)), chunk(CLEAR, b"\0\5")),
            gray(255, 170),
        ),
        "RGB of 16 bits with one": (
            png(2, 16, halves(deep(RED) * SIDE, deep(BLUE) * SIDE), chunk(CLEAR, deep(RED))),
            [WHITE, BLUE],
        ),
        "12 bits, packed": (tiff(twelve(160, 3200), 12), gray(10, 199)),
        "12 bits in words of 16": (tiff(words(160, 3200), 16), gray(10, 199)),
        "14 bits in words of 16, and it says so": (tiff(words(642, 12850), 16, most=16383), gray(10, 200)),
        "16 bits": (tiff(words(2570, 51400), 16), gray(10, 200)),
        "16 bits, all of them black": (tiff(words(0, 0), 16), gray(0, 0)),
        "16 bits, white is zero": (tiff(words(2570, 51400), 16, photometric=0), gray(245, 55)),
        "a PGM whose white is 4095": (b"P5 8 8 4095\n" + words(160, 3200, ">u2"), gray(10, 199)),
        "text of 3 MB before the pixels": (png(2, 8, RGB8, chunk(b"zTXt", NOTE)), [RED, BLUE]),
        "text of 3 MB behind them": (png(2, 8, RGB8, after=chunk(b"zTXt", NOTE)), [RED, BLUE]),
        "70 texts of 1 MB, upside down": (png(2, 8, RGB8, chunk(b"iTXt", XMP), PILED), [BLUE, RED]),
        "a profile of its own": (saved(COPIED, icc_profile=SWAPPED), TURNED),
        "one of 3 MB": (saved(COPIED, icc_profile=LARGE), TURNED),
        "one, upper half transparent": (saved(HALF_CLEAR, icc_profile=SWAPPED), [WHITE, BLUE]),
        "one, indexed": (saved(COPIED.quantize(4), icc_profile=SWAPPED), TURNED),
        "one that is sRGB": (saved(COPIED, icc_profile=profile()), [RED, BLUE]),
        "a damaged one": (saved(COPIED, icc_profile=SWAPPED[:200]), [RED, BLUE]),
        "gray with one that is linear": (
            saved(FLAT, icc_profile=gray_profile(1)),
            gray(128, 128),
        ),
        "gray of 16 bits with it": (
            png(
                0, 16, [b"\x37\x37" * SIDE] * SIDE, chunk(b"iCCP", b"a\0\0" + zlib.compress(gray_profile(1)))
            ),
            gray(128, 128),
        ),
        "CMYK with one of RGB": (
            saved(INK, "TIFF", icc_profile=SWAPPED),
            gray(100, 100),
        ),
    }.values(),
    ids=lambda value: None,
)
def test_what_is_shown(content: bytes, colours: list[tuple[int, ...]]) -> None:
    assert np.abs(np.array(shown(content)) - np.array(colours)).max() <= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(words(-5, 100, "<i2"), 16, kind=2), "pixels from -5 to 100, whose range nothing states"),
        (tiff(words(5, 2**31 - 1, "<i4"), 32, kind=2), "pixels from 5 to 2147483647"),
        (
            struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1") + bytes(64),
            "HEIC, which is not read; convert",
        ),
        (b"\xff\x0a" + bytes(64), "JPEG XL, which is not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "JPEG XL"),
        (b"\0\0\0\x18ftypmp42" + bytes(64), "a video"),
        (b"\n<!DOCTYPE html><title>403</title>", "a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"8BPS\0\1" + bytes(64), "Photoshop"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"", "an empty file"),
        (b"\xff\xd8\xff", "not an image"),
    ],
    ids=lambda value: None,
)
def test_what_is_refused_says_what_it_is(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(CorruptImage, match=reason):
            open_image(source)


def test_texts_that_unpack_to_much_more_are_not_unpacked() -> None:
    bomb = zlib.compress(b"x" * (1 << 26))
    content = png(2, 8, RGB8, *(chunk(b"zTXt", b"a\0\0" + bomb) for _ in range(4)))
    assert shown(content) == [RED, BLUE] and read_size(content) == (SIDE, SIDE)


def test_heic_is_among_the_pictures_of_a_folder() -> None:
    assert {".heic", ".heif"} <= EXTENSIONS


# ---- decoding large JPEGs at a part of their size ----------------------------------------------------------


def photograph(width: int, height: int, orientation: int = 1) -> bytes:
    """Detail at all sizes, as photographs have it."""
    rng = np.random.default_rng(0)
    pixels = np.full((height, width, 3), 128.0)
    for cells in (3, 9, 27, 81, 243):
        rough = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layer = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC), float) - 128
        pixels += layer * 1.5 / cells**0.6
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return saved(image, "JPEG", quality=92, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_decoding_is_within_a_level_of_whole_decoding(orientation: int) -> None:
    content = photograph(501, 403, orientation)
    scaled, whole = open_resized(content, 64), open_resized(content, 64, exact=True)
    assert scaled.size == whole.size and min(scaled.size) == 64
    apart = np.abs(np.asarray(scaled, int) - np.asarray(whole, int))
    assert 0 < apart.mean() < 1 and np.percentile(apart, 99) <= 8


def test_exact_decoding_is_opening_and_resizing() -> None:
    content = photograph(501, 403, 6)
    upright = open_image(content)
    assert upright.size == (403, 501)
    expected = upright.resize((64, int(64 * 501 / 403)), Image.Resampling.BICUBIC)
    assert open_resized(content, 64, exact=True).tobytes() == expected.tobytes()


def test_a_jpeg_is_scaled_only_where_twice_the_size_is_left() -> None:
    content = photograph(501, 255)  # 64 px: a half would leave 127.5
    assert open_resized(content, 64).tobytes() == open_resized(content, 64, exact=True).tobytes()
    content = photograph(501, 256)
    assert open_resized(content, 64).tobytes() != open_resized(content, 64, exact=True).tobytes()


def test_an_opened_picture_stays_whole() -> None:
    with Image.open(io.BytesIO(photograph(501, 403))) as image:
        open_resized(image, 64)
        assert image.size == (501, 403)
