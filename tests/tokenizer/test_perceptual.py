"""Perceptual losses, and the loaders of their networks, on weights of the right architecture made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from tokenizer import perceptual, pretrained
from tokenizer.perceptual import (
    ConvNextLogits,
    Lpips,
    Perceptual,
    PerceptualConfig,
    RandomFeatures,
    build_perceptual,
)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's VGG16 keys with random values, the classifier included in miniature: it is never read."""
    torch.manual_seed(0)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture(scope="module")
def torchvision_convnext() -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.convnext_small(weights=None).eval()


@pytest.fixture(scope="module")
def convnext_file(torchvision_convnext: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("convnext") / "convnext_small.pth"
    torch.save(torchvision_convnext.state_dict(), path)
    return path


def _images(count: int = 2, size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, count, 3, size, size, generator=generator)
    return pair[0], pair[1]


def test_lpips_equals_the_package(vgg_file: Path) -> None:
    network = pretrained.load_lpips(str(vgg_file), "option")
    state = torch.load(vgg_file)
    torch.testing.assert_close(network.net.slice5[-2].weight, state["features.28.weight"])
    a, b = _images()
    torch.testing.assert_close(Lpips(network)(a, b), network(a, b, normalize=True).flatten())
    assert Lpips(network)(a, a).abs().max() == 0


def test_lpips_gradient_is_finite_where_features_vanish(vgg_file: Path) -> None:
    """The package's own forward gives NaN here."""
    network = pretrained.load_lpips(str(vgg_file), "option")
    network.net.slice1[0].bias.data.fill_(-1e3)  # all 64 channels of the first layer are dead
    network.net.slice1[2].bias.data.fill_(-1e3)
    pred = _images()[0].requires_grad_()
    Lpips(network)(pred, _images()[1]).sum().backward()
    assert pred.grad is not None and torch.isfinite(pred.grad).all()


def test_convnext_reads_torchvision_weights(convnext_file: Path, torchvision_convnext: nn.Module) -> None:
    network = pretrained.load_convnext_small(str(convnext_file), "option").eval()
    pixels = _images(size=64)[0]
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), torchvision_convnext(pixels), rtol=1e-4, atol=1e-5)


def test_convnext_term_is_the_squared_difference_of_normalised_logits() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    a, b = _images()
    term = ConvNextLogits(network, size=8)
    logits = []
    for image in (a, b):
        small = nn.functional.interpolate(image, (8, 8), mode="bilinear", antialias=True)
        normal = (small.numpy() - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array(
            [0.229, 0.224, 0.225]
        )[:, None, None]
        logits.append(network(torch.tensor(normal, dtype=torch.float32)).numpy(force=True))
    assert term(a, b).item() == pytest.approx(np.mean((logits[0] - logits[1]) ** 2), rel=1e-4)


def test_composite_is_titoks(vgg_file: Path, convnext_file: Path) -> None:
    config = PerceptualConfig(
        preset="lpips_convnext_s", lpips_vgg_weights=str(vgg_file), convnext_weights=str(convnext_file)
    )
    loss = build_perceptual(config)
    assert isinstance(loss, Perceptual)
    lpips, convnext = loss.terms
    assert isinstance(lpips, Lpips) and isinstance(convnext, ConvNextLogits) and convnext.size == 224
    convnext.size = 32  # cheaper; the resize itself is tested above
    pred, target = (image.requires_grad_() for image in _images())
    value = loss(pred, target)
    expected = (1.0 * lpips(pred, target).mean() + 0.1 * convnext(pred, target)) / 1.1
    torch.testing.assert_close(value, expected)
    value.backward()
    assert target.grad is None and pred.grad is not None and pred.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.train().modules())


def test_convnext_alone_needs_no_vgg(convnext_file: Path) -> None:
    loss = build_perceptual(PerceptualConfig(preset="convnext_s", convnext_weights=str(convnext_file)))
    assert isinstance(loss, Perceptual) and [type(term) for term in loss.terms] == [ConvNextLogits]


def test_none_builds_nothing() -> None:
    assert build_perceptual(PerceptualConfig(preset="none")) is None


def test_random_features_are_fixed_and_ordered() -> None:
    loss = build_perceptual(PerceptualConfig(preset="random_features"))
    assert isinstance(loss, Perceptual)
    torch.manual_seed(123)
    again = Perceptual([(1.0, RandomFeatures())])
    target, noise = _images()
    blurred = nn.functional.avg_pool2d(target, 3, 1, 1)
    assert torch.equal(loss(noise, target), again(noise, target))
    assert loss(target, target) == 0
    assert 0 < loss(target + 0.01 * (noise - 0.5), target) < loss(blurred, target)
    assert torch.isfinite(loss(torch.rand(1, 3, 5, 3), torch.rand(1, 3, 5, 3)))


def test_losses_are_float32_under_autocast() -> None:
    loss = Perceptual([(1.0, RandomFeatures())])
    a, b = _images()
    outside = loss(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(a.bfloat16().float(), b.bfloat16().float()), loss(a.bfloat16(), b.bfloat16())
    assert inside[1].dtype == torch.float32 and torch.equal(*inside)
    torch.testing.assert_close(inside[0], outside, rtol=0.02, atol=0)


def test_absent_weights_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names the file that was looked for and the field to set; with and without a path."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "_convnext_from_hub", _no_network)
    monkeypatch.setattr(
        torchvision.models.VGG16_Weights.IMAGENET1K_V1.__class__, "get_state_dict", _no_network
    )
    cases = [
        ({"preset": "convnext_s"}, "model.safetensors", "convnext_weights"),
        (
            {"preset": "convnext_s", "convnext_weights": "/nowhere/c.pth"},
            "/nowhere/c.pth",
            "convnext_weights",
        ),
    ]
    for values, file, field in cases:
        with pytest.raises(UserError) as error:
            build_perceptual(PerceptualConfig(**values))
        _check_line(str(error.value), file, f"{perceptual.KEY}.{field}")
    for weights, file in ((None, "vgg16-397923af.pth"), ("/nowhere/v.pth", "/nowhere/v.pth")):
        with pytest.raises(UserError) as error:
            pretrained.load_lpips(weights, "loss.perceptual_model.lpips_vgg_weights")
        _check_line(str(error.value), file, "loss.perceptual_model.lpips_vgg_weights")


def test_wrong_files_are_one_line(vgg_file: Path, tmp_path: Path) -> None:
    torn, other, shapes = tmp_path / "torn.pth", tmp_path / "other.pth", tmp_path / "shapes.safetensors"
    torn.write_bytes(vgg_file.read_bytes()[:1000])
    torch.save([1, 2], other)
    save_file({"features.0.weight": torch.zeros(1)}, shapes)
    code = tmp_path / "code.pth"
    torch.save({"weight": _no_network}, code)  # a pickled function: must be refused, not imported
    for path, says in (
        (torn, "readable"),
        (other, "state dict"),
        (shapes, "does not fit"),
        (code, "readable"),
    ):
        with pytest.raises(UserError) as error:
            pretrained.load_lpips(str(path), "some.option")
        _check_line(str(error.value), str(path), "some.option", says)
    for path in (vgg_file, shapes):
        with pytest.raises(UserError) as error:
            pretrained.load_convnext_small(str(path), "some.option")
        _check_line(str(error.value), str(path), "some.option")


def test_state_dicts_are_read_from_every_container(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": state}, tmp_path / "wrapped.pth")  # as ConvNeXt's authors publish it
    save_file(state, tmp_path / "plain.safetensors")
    for name in ("plain.pth", "wrapped.pth", "plain.safetensors"):
        assert torch.equal(pretrained.read_state_dict(tmp_path / name, "option")["a"], state["a"])


def _no_network(*_: object, **__: object) -> None:
    raise OSError("Name or service not known")


def _check_line(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message, message
