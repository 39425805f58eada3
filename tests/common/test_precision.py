"""A VQRAE in half precision: its codes are still computed in float32, by the very numbers of the float32 model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae

HALVES = (torch.bfloat16, torch.float16)
FAMILIES = {"siglip": (tiny.SIGLIP, 4), "internvit": (tiny.INTERNVIT, 7)}


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 model whose statistics and matrices are no round numbers."""
    architecture, patch = FAMILIES[request.param]
    torch.manual_seed(0)
    model = VQRAE.from_encoder(build_encoder(architecture), 64, 16, patch)
    model.quantizer.feature_mean.normal_()
    model.quantizer.feature_std.uniform_(0.5, 1.5)
    torch.nn.init.normal_(model.quantizer.transform.weight, std=0.3)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


def pictures(model: VQRAE, grid: int = 4) -> torch.Tensor:
    side = grid * model.config.output_patch_size
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def check(model: VQRAE, saved: Path, dtype: torch.dtype) -> None:
    """Encoder and decoder compute in `dtype`; features are those of float32 up to it; their codes are float32's own."""
    exact = VQRAE.from_pretrained(saved).eval()
    model.eval()
    assert model.dtype == model.decoder.to_pixels.weight.dtype == dtype
    for name, tensor in exact.quantizer.state_dict().items():
        assert torch.equal(model.quantizer.state_dict()[name], tensor), name  # equal in type too
    for grid in (4, 6):  # as trained, and with interpolated positions
        pixels = pictures(exact, grid)
        for given in (pixels, pixels.to(dtype)):
            encoding = model.encode(given)
            reference = exact.encode(given.float())
            assert encoding.features.dtype == dtype
            torch.testing.assert_close(encoding.features.float(), reference.features, atol=0.1, rtol=0.05)
            # Rounded features may be nearer to another code; by the float32 model they would be given this one too.
            grid_of_codes = encoding.codes.flatten(1)
            assert torch.equal(exact.quantizer(encoding.features.float()).codes, grid_of_codes)
            assert (encoding.codes == reference.codes).float().mean() > 0.9
        decoded = model.decode(reference.codes)
        assert decoded.dtype == torch.float32 and 0 <= decoded.min() <= decoded.max() <= 1
        torch.testing.assert_close(decoded, exact.decode(reference.codes), atol=0.03, rtol=0)
        assert torch.equal(
            model.decode_features(encoding.features, (grid, grid)), model.decode(encoding.codes)
        )
        output = model(pixels)
        assert torch.equal(output.codes, model.encode(pixels).codes)
        assert output.codebook_loss.dtype == torch.float32 and output.reconstruction.isfinite().all()
        assert model(pixels, quantize=False).reconstruction.shape == pixels.shape


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_loaded_in_half_precision(dtype: torch.dtype, saved: Path) -> None:
    check(VQRAE.from_pretrained(saved, dtype=dtype), saved, dtype)


WAYS: dict[str, Callable[[VQRAE, torch.dtype], Any]] = {
    "to": lambda model, dtype: model.to(dtype),
    "to_device": lambda model, dtype: model.to("cpu", dtype),
    "method": lambda model, dtype: model.bfloat16() if dtype == torch.bfloat16 else model.half(),
    "there_and_back": lambda model, dtype: model.to(torch.float64).half().to(dtype),
    "copied": lambda model, dtype: copy.deepcopy(model.to(dtype)),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_cast_after_loading(way: str, dtype: torch.dtype, saved: Path) -> None:
    check(WAYS[way](VQRAE.from_pretrained(saved), dtype), saved, dtype)


def test_a_part_of_it_cast_alone(saved: Path) -> None:
    """The decoder in half precision, and the encoder as it was."""
    model = VQRAE.from_pretrained(saved).eval()
    reference = model.encode(pictures(model)).codes
    model.decoder.to(torch.bfloat16)
    model.quantizer.half()
    assert torch.equal(model.encode(pictures(model)).codes, reference)
    assert model.decode(reference).isfinite().all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_saved_in_half_precision_and_loaded_again(dtype: torch.dtype, saved: Path, tmp_path: Path) -> None:
    first = VQRAE.from_pretrained(saved, dtype=dtype).eval()
    first.save_pretrained(tmp_path)
    again = VQRAE.from_pretrained(tmp_path, dtype="auto").eval()
    check(again, saved, dtype)
    codes = first.encode(pictures(first)).codes
    assert torch.equal(again.encode(pictures(first)).codes, codes)
    exact, _ = load_vqrae(str(tmp_path))  # as commands load it: float32 throughout
    assert {tensor.dtype for tensor in exact.state_dict().values()} == {torch.float32}
    assert torch.equal(exact.quantizer.codebook, first.quantizer.codebook)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_another_default_type(
    dtype: torch.dtype, saved: Path, default_dtype: Callable[[torch.dtype], None]
) -> None:
    """What torch makes without being told a type: a model from a checkpoint or from nothing, and its numbers."""
    pixels = pictures(VQRAE.from_pretrained(saved))
    reference = VQRAE.from_pretrained(saved).eval().encode(pixels)
    default_dtype(dtype)
    loaded = VQRAE.from_pretrained(saved).eval()
    assert torch.equal(loaded.encode(pixels).codes, reference.codes)
    assert torch.equal(loaded.encode(pixels).features, reference.features)
    fresh = VQRAE(loaded.config).eval()
    assert {tensor.dtype for tensor in fresh.quantizer.state_dict().values()} == {torch.float32}
    assert fresh.decode(fresh.encode(pixels).codes).isfinite().all()


@pytest.mark.parametrize(
    "places",
    [
        "cpu",
        "auto",
        {"": "cpu"},
        {"encoder": "disk", "quantizer": "cpu", "decoder": "disk"},
        {"encoder": "cpu", "quantizer": "disk", "decoder": "cpu"},
    ],
    ids=["cpu", "auto", "whole", "towers_on_disk", "quantizer_on_disk"],
)
def test_placed_by_accelerate(places: Any, saved: Path, tmp_path: Path) -> None:
    options = {"device_map": places, "dtype": torch.bfloat16, "offload_folder": str(tmp_path)}
    model = VQRAE.from_pretrained(saved, **options).eval()
    plain = VQRAE.from_pretrained(saved, dtype=torch.bfloat16).eval()
    pixels = pictures(plain)
    encoding = model.encode(pixels)
    assert torch.equal(encoding.codes, plain.encode(pixels).codes)
    assert torch.equal(model.decode(encoding.codes), plain.decode(encoding.codes))
    assert torch.equal(model(pixels).reconstruction, plain(pixels).reconstruction)
