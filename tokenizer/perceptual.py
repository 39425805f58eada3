"""Perceptual losses between a reconstruction and its original, in float32, with frozen networks.

`lpips_convnext_s` is TiTok's composite (1.0 LPIPS + 0.1 mean squared difference of ConvNeXt-S' ImageNet
logits) / 1.1, so that a weight of 1.1 gives LPIPS + 0.1 ConvNeXt-S; `convnext_s` is the second term alone.
`random_features` compares the responses of a small network of fixed random filters. It knows nothing of
images: it weighs edges and texture at three scales, needs no download, and serves miniatures; it stands for
no published loss.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import configclass
from tokenizer.pretrained import load_convnext_small, load_lpips

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KEY = "loss.perceptual_model"
"""Where `PerceptualConfig` stands in a recipe; errors name the field by its whole path."""


@configclass
class PerceptualConfig:
    """Which perceptual loss, and where its weights are; None means the library's own download."""

    preset: Literal["lpips_convnext_s", "convnext_s", "random_features", "none"]
    lpips_vgg_weights: str | None = None
    """torchvision's VGG16 state dict (`vgg16-397923af.pth`); the linear heads are in the `lpips` package."""
    convnext_weights: str | None = None
    """ConvNeXt-S for ImageNet-1K, .safetensors or .pth, in timm's, the authors' or torchvision's key layout.
    TiTok uses torchvision's (`convnext_small-0c510722.pth`)."""


def build_perceptual(config: PerceptualConfig, device: torch.device | str = "cpu") -> nn.Module | None:
    """The loss `module(pred, target) -> scalar` of (B, 3, H, W) images in [0, 1]; None for preset `none`.

    Raises:
        UserError: weights are absent and cannot be downloaded, or do not fit; names the file and the option.
    """
    if config.preset == "none":
        return None
    terms: list[tuple[float, nn.Module]]
    if config.preset == "random_features":
        terms = [(1.0, RandomFeatures())]
    else:
        convnext = ConvNextLogits(load_convnext_small(config.convnext_weights, f"{KEY}.convnext_weights"))
        terms = [(1.0, convnext)]
        if config.preset == "lpips_convnext_s":
            lpips = Lpips(load_lpips(config.lpips_vgg_weights, f"{KEY}.lpips_vgg_weights"))
            terms = [(1.0, lpips), (0.1, convnext)]
    return Perceptual(terms).to(device)


class Frozen(nn.Module):
    """A module that never trains: no parameter has a gradient, and `train()` leaves it in evaluation mode."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class Perceptual(Frozen):
    """Weighted mean of terms; float32 whatever autocast says, gradient into `pred` only."""

    def __init__(self, terms: list[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(term for _, term in terms)
        self.freeze()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], twice -> scalar, the mean over images."""
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = pred.float(), target.detach().float()
            total = pred.new_zeros(())
            for weight, term in zip(self.weights, self.terms, strict=True):
                total = total + weight * term(pred, target).mean()
            return total / sum(self.weights)


class Lpips(Frozen):
    """LPIPS (VGG16, version 0.1) with the `lpips` package's weights: (B, 3, H, W) in [0, 1], twice -> (B,).

    The package divides by sqrt(sum of squares), whose gradient is NaN where all channels of a layer are zero;
    here the root is taken of at least 1e-20, which changes no value.
    """

    network: Any

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.freeze()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        total = pred.new_zeros(pred.shape[0])
        layers = zip(self._features(pred), self._features(target), self.network.lins, strict=True)
        for a, b, head in layers:
            total = total + head((_unit(a) - _unit(b)).square()).mean(dim=(1, 2, 3))
        return total

    def _features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self.network.net(self.network.scaling_layer(pixels * 2.0 - 1.0))


class ConvNextLogits(Frozen):
    """Mean squared difference of ConvNeXt-S' 1000 ImageNet logits at 224 px.

    (B, 3, H, W) in [0, 1], twice -> scalar; both are resized bilinearly with antialiasing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, size: int = 224) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(self._logits(pred), self._logits(target))

    def _logits(self, pixels: Tensor) -> Tensor:
        size = (self.size, self.size)
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.network((pixels - self.mean) / self.std)


class RandomFeatures(Frozen):
    """Distance of unit-length responses of fixed random filters at three scales: (B, 3, H, W), twice -> (B,).

    LPIPS' form without anything learned. The weights come from a generator of their own with a fixed seed, so
    the loss is the same function in every process and every run.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.levels = nn.ModuleList()
        for before, after in pairwise((3, *widths)):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            deviation = (2.0 / (9 * before)) ** 0.5
            conv.weight.data = torch.randn(conv.weight.shape, generator=generator) * deviation
            self.levels.append(conv)
        self.freeze()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        a, b = pred * 2.0 - 1.0, target * 2.0 - 1.0
        total = pred.new_zeros(pred.shape[0])
        for level, conv in enumerate(self.levels):
            if level:
                a, b = F.avg_pool2d(a, 2, ceil_mode=True), F.avg_pool2d(b, 2, ceil_mode=True)
            a, b = F.leaky_relu(conv(a), 0.2), F.leaky_relu(conv(b), 0.2)
            total = total + (_unit(a) - _unit(b)).square().sum(dim=1).mean(dim=(1, 2))
        return total / len(self.levels)


def _unit(features: Tensor) -> Tensor:
    """(B, C, H, W), each position scaled to length 1 over channels; zero stays zero, with zero gradient."""
    return features / (features.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt() + 1e-10)
