"""The evaluation's rules, stated again in NumPy and SciPy float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from common import dist
from common.errors import UserError
from common.metrics import reconstruction as reconstruction_metrics
from common.metrics.reconstruction import ReconstructionMetrics, image_scores
from tokenizer import pretrained

K = 16


class Features(nn.Module):
    """A stand-in for Inception: uint8 (B, 3, H, W) -> (B, 12) means over quarters."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def _set(count: int = 24, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, size, size, generator=generator)
    noise = torch.randn(pixels.shape, generator=generator) * torch.linspace(0.01, 0.4, count).view(
        -1, 1, 1, 1
    )
    return pixels, pixels + noise, torch.randint(0, K - 3, (count, 4, 4), generator=generator)


def _rounded(images: Tensor) -> np.ndarray:
    """0..255, rounded half to even as `torch.round` and `np.round` both do."""
    return np.round(np.clip(images.numpy(), 0, 1) * np.float32(255)).astype(np.float64)


def test_psnr_is_per_image_on_rounded_pixels() -> None:
    pixels, rebuilt, codes = _set()
    a, b = _rounded(pixels) / 255, _rounded(rebuilt) / 255
    expected = [10 * np.log10(1 / np.mean((x - y) ** 2)) for x, y in zip(a, b, strict=True)]
    metrics = ReconstructionMetrics(K)
    scores = metrics.update(pixels, rebuilt, codes)
    np.testing.assert_allclose(scores["psnr"].numpy(), expected, rtol=1e-9)
    assert metrics.compute()["psnr"] == pytest.approx(np.mean(expected))
    pooled = 10 * np.log10(1 / np.mean((a - b) ** 2))
    assert abs(np.mean(expected) - pooled) > 1  # the rule matters


def test_ssim_is_wangs_with_data_range_1() -> None:
    """Gaussian windows of 11 px and sigma 1.5, reflected at the border, mean over pixels and channels."""
    pixels, rebuilt, _ = _set(count=4, size=24)
    a, b = _rounded(pixels) / 255, _rounded(rebuilt) / 255

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, sigma=(0, 0, 1.5, 1.5), truncate=3.5, mode="mirror")

    def ssim(data_range: float) -> np.ndarray:
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        upper = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
        return np.mean(upper / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)), axis=(1, 2, 3))

    original, copy = (torch.tensor(x * 255).round().to(torch.uint8) for x in (a, b))
    scores = image_scores(original, copy, ssim_range_2=True)
    np.testing.assert_allclose(scores["ssim"].numpy(), ssim(1.0), rtol=1e-6)
    np.testing.assert_allclose(scores["ssim_data_range_2"].numpy(), ssim(2.0), rtol=1e-6)
    assert (scores["ssim_data_range_2"] > scores["ssim"]).all()  # why it is no score of its own


def test_pixels_are_rounded_not_truncated() -> None:
    pixels = torch.full((1, 3, 8, 8), 100 / 255)
    metrics = ReconstructionMetrics(K)
    metrics.update(pixels, pixels + 0.4 / 255, None)  # rounds to 100: identical
    assert metrics.compute()["psnr"] == reconstruction_metrics.PSNR_CEILING
    one_off = image_scores(*(torch.full((1, 3, 8, 8), level, dtype=torch.uint8) for level in (100, 101)))
    assert one_off["psnr"].item() == pytest.approx(20 * np.log10(255))


def test_batches_of_any_size_give_the_same_scores() -> None:
    pixels, rebuilt, codes = _set()
    whole, parts = (ReconstructionMetrics(K, frechet={"rfid": Features()}) for _ in range(2))
    whole.update(pixels, rebuilt, codes)
    for part in (slice(0, 7), slice(7, 8), slice(8, 24)):
        parts.update(pixels[part], rebuilt[part], codes[part])
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-9)


def test_rfid_is_the_frechet_distance_of_float64_statistics() -> None:
    pixels, rebuilt, codes = _set()
    statistics = []
    for images in (pixels, rebuilt):
        features = Features()(torch.tensor(_rounded(images), dtype=torch.uint8)).numpy().astype(np.float64)
        statistics.append((features.mean(0), np.cov(features, rowvar=False)))
    (mean_a, cov_a), (mean_b, cov_b) = statistics
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    metrics = ReconstructionMetrics(K, frechet={"rfid": Features()})
    metrics.update(pixels, rebuilt, codes)
    assert metrics.compute()["rfid"] == pytest.approx(expected, rel=1e-8)
    assert metrics.compute()["rfid"] == pytest.approx(expected, rel=1e-8)  # reading changes nothing


def test_code_use_is_counted_over_the_whole_set() -> None:
    pixels, rebuilt, codes = _set()
    metrics = ReconstructionMetrics(K)
    for image in range(len(codes)):
        metrics.update(pixels[image : image + 1], rebuilt[image : image + 1], codes[image : image + 1])
    shares = np.bincount(codes.flatten().numpy(), minlength=K) / codes.numel()
    used = shares[shares > 0]
    scores = metrics.compute()
    assert scores["usage"] == len(used) / K == (K - 3) / K
    assert scores["dead_codes"] == 3
    assert scores["perplexity"] == pytest.approx(np.exp(-np.sum(used * np.log(used))))


def test_without_codes_nothing_is_said_about_them() -> None:
    pixels, rebuilt, _ = _set(count=2)
    metrics = ReconstructionMetrics(K)
    metrics.update(pixels, rebuilt, None)
    assert sorted(metrics.compute()) == ["images", "psnr", "ssim"]


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image"):
        ReconstructionMetrics(K).compute()


def test_lpips_is_a_mean_over_images() -> None:
    class Distance(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert a.dtype == torch.float32 and a.min() >= 0 and a.max() <= 1
            return (a - b).abs().mean(dim=(1, 2, 3))

    pixels, rebuilt, codes = _set()
    metrics = ReconstructionMetrics(K, distances={"lpips": Distance()})
    for part in (slice(0, 5), slice(5, 24)):
        metrics.update(pixels[part], rebuilt[part], codes[part])
    expected = np.mean(np.abs(_rounded(pixels) - _rounded(rebuilt)) / 255)
    assert metrics.compute()["lpips"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("split", [23, 24])
def test_uneven_ranks_weigh_images_equally(split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks with 23 images and 1, and with 24 and none, score like one process with 24.

    A stand-in for the sum over ranks first records what each rank brings, then gives each the totals.
    """
    pixels, rebuilt, codes = _set()
    whole = ReconstructionMetrics(K, frechet={"rfid": Features()})
    whole.update(pixels, rebuilt, codes)
    expected = whole.compute()

    brought: list[list[Tensor]] = []
    ranks = []
    for part in (slice(0, split), slice(split, 24)):
        rank, mine = ReconstructionMetrics(K, frechet={"rfid": Features()}), []
        if len(pixels[part]):
            rank.update(pixels[part], rebuilt[part], codes[part])
        # Plus two, so that a rank without images gets through its divisions here.
        monkeypatch.setattr(dist, "sum_", lambda x, mine=mine: mine.append(x.clone()) or x + 2)
        rank.compute()
        ranks.append(rank)
        brought.append(mine)
    totals = [a + b for a, b in zip(*brought, strict=True)]
    for rank in ranks:
        replies = iter(totals)
        monkeypatch.setattr(dist, "sum_", lambda x, replies=replies: next(replies))
        assert rank.compute() == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FID's Inception with random weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Unloaded(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            pass

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save({}, path.with_name("empty.pth"))
    extractor = Unloaded("inception-v3-compat", ["2048"], str(path.with_name("empty.pth")))
    torch.save(nn.Module.state_dict(extractor), path)
    return path


def test_inception_is_torch_fidelitys_with_its_own_resize(inception_file: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = torch.randint(
        0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    ours = pretrained.load_inception_fid(str(inception_file), "option")
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    with torch.no_grad():
        features = ours(images)
        assert features.shape == (1, 2048) == (1, ours.num_features)
        torch.testing.assert_close(features, theirs(images)[0])


def test_absent_or_wrong_inception_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as module

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(module, "load_state_dict_from_url", offline)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    option = "--inception-weights (or --skip-fid)"
    for path in (None, "/nowhere.pth", str(tmp_path / "other.pth")):
        with pytest.raises(UserError) as error:
            pretrained.load_inception_fid(path, option)
        message = str(error.value)
        assert "\n" not in message and (path or pretrained.INCEPTION_FILE) in message and option in message
