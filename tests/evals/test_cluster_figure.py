"""Clusters of pictures by continuous features and by codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from evals import cluster_figure

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210)}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    VQRAE.from_encoder(build_encoder(tiny.SIGLIP), 32, 16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five red, four green and three blue pictures with a little noise."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for (name, colour), count in zip(COLOURS.items(), (5, 4, 3), strict=True):
        for index in range(count):
            pixels = np.array(colour) + rng.integers(-3, 4, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}_{name}.png")
    return folder


def test_colours_fall_into_clusters_of_their_own(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = [str(model_folder), "--images", str(pictures), "--clusters", "3", "--shown", "4"]
    for folder, batch in (("one", "5"), ("two", "5")):
        out = tmp_path / folder
        cluster_figure.main([*arguments, "--output", str(out), "--batch-size", batch, "--device", "cpu"])
    record = json.loads((tmp_path / "one" / "clusters.json").read_text())
    assert record == json.loads((tmp_path / "two" / "clusters.json").read_text())
    for kind in cluster_figure.KINDS:
        assert [len(members) for members in record[kind]] == [5, 4, 3], kind
        for members, colour in zip(record[kind], COLOURS, strict=True):
            assert all(colour in key for key in members), kind
    with Image.open(tmp_path / "one" / "clusters.png") as figure:
        seen = {
            figure.getpixel((x, y)) for x in range(0, figure.width, 8) for y in range(0, figure.height, 8)
        }
    for colour in COLOURS.values():
        assert any(max(abs(a - b) for a, b in zip(colour, pixel, strict=True)) < 8 for pixel in seen)


def test_members_are_in_order_of_their_distance_to_the_centre() -> None:
    line = np.array([[0.0], [1.0], [5.0], [100.0], [102.0], [2.0], [105.0]])
    assert cluster_figure.cluster(line, 2, seed=0) == [[5, 1, 0, 2], [4, 3, 6]]


def test_a_large_dimension_does_not_decide_alone() -> None:
    """Two blobs in two small dimensions, and one large dimension that says nothing."""
    rng = np.random.default_rng(0)
    blobs = np.repeat([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]], 20, axis=0) + rng.normal(0, 0.05, (40, 3))
    blobs[:, 2] *= 1e6
    found = cluster_figure.cluster(blobs, 2, seed=0)
    assert sorted(map(sorted, found)) == [list(range(20)), list(range(20, 40))]


def test_equal_pictures_make_fewer_clusters() -> None:
    assert cluster_figure.cluster(np.ones((5, 3)), 2, seed=0) == [[0, 1, 2, 3, 4]]


def test_code_vectors_depend_on_the_codes_alone(model_folder: Path) -> None:
    model = VQRAE.from_pretrained(model_folder).eval()
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    features, bag = cluster_figure.describe(model, pixels)
    codes = model.encode(pixels / 255).codes.flatten(1)
    counts = torch.nn.functional.one_hot(codes, 32).double().mean(dim=1)
    vectors = model.quantizer.lookup(torch.arange(32)).double()
    torch.testing.assert_close(bag.double(), counts @ vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features, model.encode(pixels / 255).features.mean(dim=1))


def test_too_few_pictures_are_refused(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = [str(model_folder), "--images", str(pictures), "--output", str(tmp_path), "--clusters", "13"]
    with pytest.raises(UserError, match="12 pictures are too few for --clusters 13"):
        cluster_figure.main([*arguments, "--device", "cpu"])
