"""A linear probe for shape and colour: what can be read, linearly, from an encoder's features at each object.

Two logistic regressions are fitted on one encoder's features and applied, unchanged, to another's. If the second
accuracy keeps up, the second encoder still speaks the first one's language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evals.detectors.world_shapes import COLORS, SHAPES
from scripts.demo.scenes import Scene

WEIGHT_DECAY = 1e-4  # on the classifiers' weights, features standardised
ITERATIONS = 200  # of L-BFGS at most


def object_features(features: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """The mean feature over each object's box: (B, N, D) -> (objects, D) float32, objects in the scenes' order.

    Tokens are in raster order on a square grid over the picture; a token counts by the share of it in the box.
    """
    grid = round(features.shape[1] ** 0.5)
    if grid * grid != features.shape[1]:
        raise ValueError(f"features: expected a square grid of tokens, got {features.shape[1]}")
    if len(features) != len(scenes):
        raise ValueError(f"features: expected {len(scenes)} images, one per scene, got {len(features)}")
    weights, rows = [], []
    for row, scene in enumerate(scenes):
        cells = torch.arange(grid, dtype=torch.float32) * (scene.size / grid)
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            across, down = (
                (torch.clamp(cells + scene.size / grid, max=high) - torch.clamp(cells, min=low)).clamp(min=0)
                for low, high in ((x0, x1), (y0, y1))
            )
            covered = torch.outer(down, across).flatten()
            weights.append(covered / covered.sum())
            rows.append(row)
    picked = features.detach().float().cpu()[torch.tensor(rows)]
    return torch.einsum("on,ond->od", torch.stack(weights), picked)


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class index of each object's shape and colour."""
    things = [thing for scene in scenes for thing in scene.things]
    return {
        "shape": torch.tensor([SHAPES.index(thing.shape) for thing in things]),
        "color": torch.tensor([COLORS.index(thing.color) for thing in things]),
    }


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Standardisation and one linear classifier for each of `shape` and `color`: weight (D, classes), bias."""

    mean: Tensor
    std: Tensor
    classifiers: dict[str, tuple[Tensor, Tensor]]

    def accuracy(self, features: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
        """Share of objects classified right from `features` (B, N, D): `shape`, `color`, and their `mean`."""
        inputs = (object_features(features, scenes) - self.mean) / self.std
        result = {}
        for name, target in labels(scenes).items():
            weight, bias = self.classifiers[name]
            result[name] = float(((inputs @ weight + bias).argmax(1) == target).float().mean())
        return {**result, "mean": sum(result.values()) / len(result)}


def fit_probe(features: Tensor, scenes: Sequence[Scene]) -> Probe:
    """Fit on features (B, N, D) of the scenes' pictures. Deterministic: no random start, full batches."""
    inputs = object_features(features, scenes)
    mean, std = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    inputs = (inputs - mean) / std
    classes = {"shape": len(SHAPES), "color": len(COLORS)}
    classifiers = {
        name: _logistic_regression(inputs, target, classes[name]) for name, target in labels(scenes).items()
    }
    return Probe(mean=mean, std=std, classifiers=classifiers)


def _logistic_regression(inputs: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weight + bias, target) + WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


@torch.no_grad()
def encode(encoder: Callable[[Tensor], Tensor], images: Tensor, batch: int = 250) -> Tensor:
    """Features (B, N, D) of uint8 images (B, 3, S, S); `encoder` takes pixels in [0, 1]."""
    return torch.cat([encoder(part.float() / 255) for part in images.split(batch)])
