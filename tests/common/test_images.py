"""Whatever picture comes: RGB out of it, or a `CorruptImage` with a reason."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from common.data.images import CorruptImage, ImageTransform, open_image, to_float, to_pil, to_uint8

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def bytes_of(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def pixels_of(content: bytes) -> np.ndarray:
    image = open_image(content)
    assert image.mode == "RGB"
    return np.asarray(image)


# ---- pictures that work ----------------------------------------------------------------------------------


def test_rgb_is_untouched_from_bytes_and_from_a_path(tmp_path: Path) -> None:
    content = bytes_of(Image.fromarray(NOISE), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(open_image(source)), NOISE)


def test_gray_repeats_its_channel() -> None:
    gray = NOISE[..., 0]
    assert np.array_equal(pixels_of(bytes_of(Image.fromarray(gray), "PNG")), np.stack([gray] * 3, axis=-1))


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    deep = np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32)
    pixels = pixels_of(bytes_of(Image.fromarray(deep), "PNG"))
    assert np.array_equal(pixels[..., 1], np.round(deep / 257).astype(np.uint8))


def test_black_and_white() -> None:
    bits = NOISE[..., 0] > 127
    assert np.array_equal(pixels_of(bytes_of(Image.fromarray(bits), "PNG"))[..., 2], bits * np.uint8(255))


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = pixels_of(bytes_of(red, "JPEG", quality=95)).astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, :] = (255, 0, 0, 255)
    options = {"lossless": True} if kind == "WEBP" else {}
    result = pixels_of(bytes_of(Image.fromarray(pixels), kind, **options))
    assert (result[:2] == (255, 0, 0)).all() and (result[2:] == 255).all()


def test_gray_with_alpha() -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (10, 255))
    assert pixels_of(bytes_of(image, "PNG")).tolist() == [[[255] * 3, [10] * 3]]


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels_of(bytes_of(image, "PNG")).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert pixels_of(bytes_of(image, "PNG", transparency=0)).tolist() == [[[255] * 3, [0, 0, 255]]]
    assert pixels_of(bytes_of(image, "GIF", transparency=0)).tolist() == [[[255] * 3, [0, 0, 255]]]


def test_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert pixels_of(bytes_of(image, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, quarter_turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = pixels_of(bytes_of(Image.fromarray(NOISE), "PNG", exif=exif))
    assert np.array_equal(pixels, np.rot90(NOISE, quarter_turns))


def test_damaged_exif_does_not_lose_the_picture() -> None:
    content = bytes_of(Image.fromarray(NOISE), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff junk")
    assert np.array_equal(pixels_of(content), NOISE)


def test_one_pixel_becomes_any_size() -> None:
    image = open_image(bytes_of(Image.new("RGB", (1, 1), (7, 8, 9)), "PNG"))
    pixels = ImageTransform(16, "random", flip=True)(image, np.random.default_rng(0))
    assert pixels.shape == (3, 16, 16)
    assert (pixels == torch.tensor([7, 8, 9], dtype=torch.uint8).view(3, 1, 1)).all()


# ---- pictures that do not --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_files_are_corrupt(kind: str) -> None:
    content = bytes_of(Image.fromarray(NOISE.repeat(4, 0).repeat(4, 1)), kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(CorruptImage) as caught:
            open_image(content[: int(share * len(content))])
        assert caught.value.reason and "\n" not in caught.value.reason


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_from_the_header(size: tuple[int, int]) -> None:
    start = time.monotonic()
    with pytest.raises(CorruptImage, match="pixels, over the limit of 89478485"):
        open_image(png_header(*size))
    assert time.monotonic() - start < 0.5


def test_the_limit_is_the_callers() -> None:
    content = bytes_of(Image.fromarray(NOISE), "PNG")
    assert open_image(content, max_pixels=32 * 24).size == (32, 24)
    with pytest.raises(CorruptImage, match="32 x 24 pixels, over the limit of 767"):
        open_image(content, max_pixels=32 * 24 - 1)


def test_no_image_at_all(tmp_path: Path) -> None:
    for content in (b"", b"\x00" * 100, b"<html>not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(CorruptImage, match="not an image"):
            open_image(content)
    with pytest.raises(CorruptImage, match="No such file"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(CorruptImage, match="Is a directory"):
        open_image(tmp_path)


def test_too_thin_a_picture_is_corrupt_instead_of_huge() -> None:
    with pytest.raises(CorruptImage, match="64:1"):
        ImageTransform(256, "center", flip=False)(Image.new("RGB", (1, 60_000)), RNG)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "JPEG2000"])
def test_damaged_bytes_never_raise_anything_else(kind: str) -> None:
    content = bytes_of(Image.fromarray(NOISE), kind)
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 8)):
            damaged[place] = rng.integers(0, 256)
        try:
            assert open_image(bytes(damaged), max_pixels=1_000_000).mode == "RGB"
        except CorruptImage as error:
            assert "\n" not in error.reason


# ---- the square crop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 32), (32, 24), (25, 33), (100, 47), (16, 16), (7, 9)])
def test_centre_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    theirs = v2.Compose([v2.Resize(16, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16), v2.PILToTensor()])
    assert torch.equal(ImageTransform(16, "center", flip=False)(image, RNG), theirs(image))


def test_random_crops_reach_every_place_and_both_sides() -> None:
    pixels = np.zeros((4, 7, 3), np.uint8)
    pixels[..., 0] = np.arange(7)
    transform = ImageTransform(4, "random", flip=True)
    rows = {
        tuple(transform(Image.fromarray(pixels), np.random.default_rng(s))[0, 0].tolist()) for s in range(200)
    }
    windows = [tuple(range(start, start + 4)) for start in range(4)]
    assert rows == {*windows, *(window[::-1] for window in windows)}


def test_crops_depend_on_the_generator_alone() -> None:
    image, transform = Image.fromarray(NOISE), ImageTransform(16, "random", flip=True)
    assert torch.equal(transform(image, np.random.default_rng(3)), transform(image, np.random.default_rng(3)))


# ---- pixel ranges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eight_bits_survive_the_round_trip(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    pixels = to_float(levels)
    assert pixels.dtype == torch.float32 and pixels.min() == 0 and pixels.max() == 1
    assert torch.equal(to_uint8(pixels.to(dtype)), levels)
    assert np.array_equal(np.asarray(to_pil(pixels)), np.asarray(to_pil(levels)))


def test_floats_are_clamped_and_rounded() -> None:
    pixels = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 2.0], requires_grad=True)
    assert to_uint8(pixels).tolist() == [0, 0, 1, 255, 255]


def test_torn_pictures_are_refused_whatever_a_library_has_told_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval does on import
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    with pytest.raises(CorruptImage):
        open_image(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES
