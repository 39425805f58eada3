"""Where the codebook starts: Lloyd's iterations, statistics and the sample against NumPy, and what of the recipe rules
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from common.data.images import to_float
from common.data.stream import ImageStream
from common.errors import UserError
from common.models.quantizer import SimVQ
from common.models.vqrae import VQRAE
from tokenizer import assemble, codebook_start
from tokenizer.codebook_start import FeatureStatistics, kmeans, start_codebook, start_from_data
from tokenizer.config import TokenizerConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


def lloyd(points: np.ndarray, centers: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        nearest = ((points[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
        centers = np.stack([points[nearest == number].mean(0) for number in range(len(centers))])
    return centers


def distortion(points: torch.Tensor, centers: torch.Tensor) -> float:
    return float(torch.cdist(points.double(), centers.double()).min(1).values.square().mean())


def test_kmeans_is_lloyds_ten_iterations() -> None:
    points = torch.tensor(np.random.default_rng(0).normal(size=(200, 3)), dtype=torch.float32)
    start = points[:6].clone()
    for iterations in (1, 10):
        expected = lloyd(points.double().numpy(), start.double().numpy(), iterations)
        np.testing.assert_allclose(kmeans(points, start, iterations).numpy(), expected, atol=1e-5)
    assert torch.equal(kmeans(points, start), kmeans(points, start, 10))
    assert torch.equal(start, points[:6]) and not torch.equal(kmeans(points, start), start)


def test_a_center_without_points_moves_to_the_worst_served() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert sorted(kmeans(points, torch.tensor([[1.0], [100.0]]), 1).flatten().tolist()) == [3.0, 9.0]
    two_lost = kmeans(points, torch.tensor([[1.0], [100.0], [200.0]]), 1).flatten().tolist()
    assert two_lost == [3.0, 9.0, 0.0]


def test_statistics_are_those_of_all_tokens() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(3.0, [1.0, 2.0, 0.0], (size, 5, 3)) for size in (2, 3, 1)]
    statistics = FeatureStatistics(3, CPU)
    for part in parts:
        statistics.update(torch.tensor(part, dtype=torch.float32))
    every = np.concatenate([part.reshape(-1, 3) for part in parts])
    mean, std = statistics.compute()
    np.testing.assert_allclose(mean.numpy(), every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std.numpy()[:2], every.std(0)[:2], rtol=1e-5)
    assert std[2] == 1 and mean.dtype == std.dtype == torch.float32  # a constant channel is not blown up
    assert torch.equal(statistics.compute()[0], mean)  # reading changes nothing
    elsewhere = FeatureStatistics(3, torch.device("meta"))
    assert elsewhere.sums.device.type == elsewhere.tokens.device.type == "meta"


def quantizer(codes: int = 8) -> SimVQ:
    torch.manual_seed(0)
    return SimVQ(4, codes, 4)


def test_first_codes_are_projected_features_each_once() -> None:
    features, other = torch.randn(64, 4), quantizer()
    other.feature_mean.fill_(0.5)
    other.feature_std.fill_(2.0)
    start_codebook(other, features, "sample", seed=3)
    place = torch.cdist(other.codebook.double(), other.embed(features).double()).min(1)
    assert place.values.max() < 1e-6 and len(place.indices.unique()) == 8
    sampled = distortion(other.embed(features), other.codebook)
    start_codebook(other, features, "kmeans", seed=3)
    assert distortion(other.embed(features), other.codebook) < 0.9 * sampled


def test_first_codes_follow_from_the_seed_alone() -> None:
    features, found = torch.randn(64, 4), []
    for ambient, seed in ((1, 3), (2, 3), (1, 4)):
        one = quantizer()
        torch.manual_seed(ambient)
        start_codebook(one, features, "sample", seed)
        found.append(one.codebook.clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_normal_leaves_the_codes_as_drawn_and_too_few_tokens_are_refused() -> None:
    one = quantizer()
    before = one.codebook.clone()
    start_codebook(one, torch.randn(3, 4), "normal", seed=0)
    assert torch.equal(one.codebook, before)
    with pytest.raises(ValueError, match=r"codebook_start\.images: 7 tokens are too few for 8 codes"):
        start_codebook(one, torch.randn(7, 4), "sample", seed=0)
    start_codebook(one, torch.randn(8, 4), "sample", seed=0)


def started(config: TokenizerConfig) -> VQRAE:
    torch.manual_seed(config.seed)
    model = assemble.assemble_model(config)
    start_from_data(model, config, CPU)
    return model


def features_of(model: VQRAE, config: TokenizerConfig, images: int) -> torch.Tensor:
    """Of the first images of the training stream, in float64 NumPy's hands from here on: (tokens, D)."""
    stream = ImageStream(config.data, config.seed)
    pixels = to_float(torch.stack([stream[position]["pixels"] for position in range(images)]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, config.engine.precision == "bf16_autocast"):
        return model.read(model.encoder_pixels(pixels)).quantizer_input.flatten(0, 1).double()


@pytest.mark.parametrize("layers", ["null", "[0, 1]"])
@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast"])
def test_a_fresh_model_measures_the_images_that_the_recipe_counts(
    precision: str, layers: str, pictures: Path, tmp_path: Path
) -> None:
    """Eight images in micro-batches of two, in the run's own precision; the stream then starts at its beginning."""
    changes = (f"engine.precision={precision}", f"model.quantizer_layers={layers}")
    config = tiny.tokenizer_recipe(pictures, tmp_path, *changes)
    model = started(config)
    features = features_of(model, config, 8)
    mean, std = model.quantizer.feature_mean, model.quantizer.feature_std
    np.testing.assert_allclose(mean.numpy(), features.mean(0).numpy(), atol=1e-5)
    np.testing.assert_allclose(std.numpy(), features.std(0, correction=0).numpy(), rtol=1e-4)
    embedded = model.quantizer.embed(features.float())
    torch.testing.assert_close(embedded.std(0).norm() / 4, torch.tensor(1.0), atol=0.05, rtol=0)
    # What k-means settles at is nearer to the data than any 32 of the features themselves are.
    sample = started(
        tiny.tokenizer_recipe(pictures, tmp_path, "model.codebook_start.method=sample", changes[1])
    )
    assert distortion(embedded, model.quantizer.codebook) < 0.8 * distortion(
        embedded, sample.quantizer.codebook
    )
    if precision == "fp32":
        assert distortion(sample.quantizer.codebook, embedded) < 1e-8


def test_fields_of_the_start(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images, how many tokens of them, by which method, and with which seed."""
    asked: list[Any] = []
    monkeypatch.setattr(
        codebook_start,
        "start_codebook",
        lambda quantizer, features, method, seed: asked.append((len(features), method, seed)),
    )

    def start(*overrides: str) -> VQRAE:
        return started(tiny.tokenizer_recipe(pictures, tmp_path, *overrides))

    start()
    start("model.codebook_start.tokens_per_code=2", "model.codebook_start.method=sample", "seed=5")
    start("model.codebook_start.tokens_per_code=3", "model.codebook_start.images=7")
    # 8 images of 16 tokens are fewer than 32 x 32; then 2 x 32 of them, 16 from each of 4 micro-batches.
    assert asked == [(128, "kmeans", 0), (64, "sample", 5), (96, "kmeans", 0)]
    two = start("model.codebook_start.images=2").quantizer.feature_mean
    config = tiny.tokenizer_recipe(pictures, tmp_path)
    expected = features_of(started(config), config, 2).mean(0)
    np.testing.assert_allclose(two.numpy(), expected.numpy(), atol=1e-5)
    del asked[:]
    continuous = start("model.quantize=false").quantizer
    assert not asked and not torch.equal(continuous.feature_std, torch.ones(16))


def test_too_few_images_are_one_line(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model\.codebook_start\.images: 32 tokens are too few for 64 codes$"
    ):
        started(
            tiny.tokenizer_recipe(
                pictures, tmp_path, "model.codebook_start.images=2", "model.codebook_size=64"
            )
        )


def test_two_ranks_start_alike_and_from_each_others_images(pair: Any, pictures: Path, tmp_path: Path) -> None:
    overrides = ["batch.micro_size=1"]
    found, other = pair.run("start_codebook_from_data", pictures=str(pictures), overrides=overrides)
    assert found == other
    two = {name: torch.tensor(values) for name, values in found.items()}
    config = tiny.tokenizer_recipe(pictures, tmp_path, *overrides)
    alone = started(config).quantizer
    torch.testing.assert_close(two["feature_mean"], alone.feature_mean)
    torch.testing.assert_close(two["feature_std"], alone.feature_std)
    embedded = alone.embed(features_of(started(config), config, 8).float())
    assert distortion(embedded, two["codebook"]) < 1.3 * distortion(embedded, alone.codebook)
