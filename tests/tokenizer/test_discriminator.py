"""The discriminator against its description, and its blur against a definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenizer.discriminator import BlurPool, Discriminator, DiscriminatorConfig

SMALL = DiscriminatorConfig(width=8, stages=2, pool=4, norm_groups=4)


def test_titok_values_give_titok_layers() -> None:
    model = Discriminator(DiscriminatorConfig(width=128, stages=3, pool=16))
    shapes = [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert shapes == [
        (128, 3, 5, 5),
        (128, 128, 3, 3),
        (256, 128, 3, 3),
        (512, 256, 3, 3),
        (512, 512, 1, 1),
        (1, 512, 5, 5),
    ]
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(32, 128), (32, 256), (32, 512)]
    slopes = {layer.negative_slope for layer in model.modules() if isinstance(layer, torch.nn.LeakyReLU)}
    assert slopes == {0.1}


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (19, 33), (1, 1)])
def test_logits_have_the_pool_size(size: tuple[int, int]) -> None:
    assert Discriminator(SMALL)(torch.rand(2, 3, *size)).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("side", [6, 7])
def test_blur_pool_is_a_strided_binomial_filter(side: int) -> None:
    image = np.random.default_rng(0).normal(size=(side, side))
    taps = np.array([1, 3, 3, 1]) / 8
    padded = np.pad(image, (1, 1 + side % 2))
    out = (side + 1) // 2
    windows = [[padded[2 * y : 2 * y + 4, 2 * x : 2 * x + 4] for x in range(out)] for y in range(out)]
    expected = np.array([[taps @ window @ taps for window in row] for row in windows])
    pooled = BlurPool()(torch.tensor(image, dtype=torch.float32).expand(1, 2, side, side))
    assert pooled.shape == (1, 2, out, out)
    np.testing.assert_allclose(pooled[0, 1].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_pixels_are_centred_inside() -> None:
    """Grey (0.5) is the network's zero, so only the first convolution's bias is seen away from the border."""
    model = Discriminator(SMALL)
    with torch.no_grad():
        first = model.features[0](torch.full((1, 3, 9, 9), 0.5) * 2 - 1)
    torch.testing.assert_close(first[0, :, 4, 4], model.features[0].bias)
    seen = []
    model.features[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16))
    assert seen[0][0, :, 0, 0].tolist() == [-1.0, 0.0, 1.0]


def test_every_parameter_learns() -> None:
    model = Discriminator(SMALL)
    model(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in model.parameters())


def test_bad_sizes_name_their_field() -> None:
    with pytest.raises(ValueError, match=r"^width: expected a multiple of norm_groups \(32\), found 48"):
        DiscriminatorConfig(width=48, stages=2, pool=4)
    with pytest.raises(ValueError, match=r"^stages: expected 1 to 12, found 0"):
        DiscriminatorConfig(width=32, stages=0, pool=4)
