"""Weights are known by their hashes, which stand in codes, generators and checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import hub_layouts
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.language.causal_lm import load_causal_lm
from common.models.encoder_loading import load_encoder
from common.models.weight_files import state_sha256, stored_tensors


def tensors() -> dict[str, Tensor]:
    return {
        "b.weight": torch.arange(6, dtype=torch.float32).view(2, 3) / 7,
        "a": torch.tensor([1, -2]),
        "c": torch.tensor([0.1, 1 / 3], dtype=torch.bfloat16),
        "d.T": (torch.arange(6.0, dtype=torch.float64).view(2, 3) / 3).T,  # not contiguous
    }


def test_hashes_are_those_that_files_carry() -> None:
    """Digits as the generator's hash of a VQRAE, and understanding's of a tower, first had them."""
    state = {**tensors(), "s": torch.tensor(True)}
    assert state_sha256(state) == "7ae2d720bb70610735206f48afabb4dc2329c2346b1f153bbc593c736a4d6803"
    rounded = state_sha256(tensors(), rounded=True)
    assert rounded == "9e3f0cab475cb1156dcf68eb78029f22c7b3dd4fe6b97a894c10044106e5e536"


def test_what_counts() -> None:
    """The order does not; names, shapes and values do, and types unless values are rounded."""
    state = tensors()
    backwards = dict(reversed(state.items()))
    halved = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    flat = {**state, "b.weight": state["b.weight"].flatten()}
    renamed = {("e" if name == "d.T" else name): tensor for name, tensor in state.items()}
    moved = {**state, "a": torch.tensor([1, -3])}
    for rounded in (False, True):
        whole = state_sha256(state, rounded)
        assert whole == state_sha256(backwards, rounded)
        assert (whole == state_sha256(halved, rounded)) is rounded
        assert len({whole, *(state_sha256(other, rounded) for other in (flat, renamed, moved))}) == 4


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:d8fa\nsize 9976576152\n",
            "a Git LFS pointer",
        ),
        (b"<html><head><title>502 Bad Gateway</title></head></html>", "a web page in place of the file"),
        (b"", "empty"),
    ],
    ids=["pointer", "page", "empty"],
)
@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_what_lies_there_in_place_of_weights(
    weights: str, content: bytes, cause: str, tmp_path: Path
) -> None:
    """One of several files was not downloaded: whoever opens it says so, and names it."""
    hub_layouts.write_vicuna(tmp_path / "vicuna", weights=weights)
    hub_layouts.write_siglip2(tmp_path / "siglip")
    second = next((tmp_path / "vicuna").glob(f"*-00002-of-00002.{weights}"))
    for path in (second, tmp_path / "siglip" / "model.safetensors"):
        path.write_bytes(content)
    readers = {
        second: [
            lambda: load_causal_lm(tmp_path / "vicuna", torch.float32, "sdpa"),
            lambda: list(stored_tensors(tmp_path / "vicuna", "vicuna")),
        ],
        tmp_path / "siglip" / "model.safetensors": [lambda: load_encoder(str(tmp_path / "siglip"))],
    }
    for path, ways in readers.items():
        for read in ways:
            with pytest.raises(UserError) as error:
                read()
            said = str(error.value)
            assert (
                said.startswith(f"{path.parent}: ") and f"{path.name}: {cause}" in said and "\n" not in said
            )
