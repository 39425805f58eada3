"""A linear probe for shape and colour: what can be read, linearly, from an encoder's features at each object.

Two logistic regressions (`evals/semantics/probe.py`) are fitted on one encoder's features and applied, unchanged, to
another's. If the second accuracy keeps up, the second encoder still speaks the first one's language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.detectors.world_shapes import COLORS, SHAPES
from evals.semantics.probe import LinearProbe, box_means, fit_linear
from scripts.demo.scenes import Scene


def object_features(features: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """The mean feature over each object's box: (B, N, D) -> (objects, D) float32, objects in the scenes' order."""
    boxes = [[[at / scene.size for at in thing.box] for thing in scene.things] for scene in scenes]
    return box_means(features.detach().cpu(), boxes)


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class index of each object's shape and colour."""
    things = [thing for scene in scenes for thing in scene.things]
    return {
        "shape": torch.tensor([SHAPES.index(thing.shape) for thing in things]),
        "color": torch.tensor([COLORS.index(thing.color) for thing in things]),
    }


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One linear classifier for each of `shape` and `color`."""

    classifiers: dict[str, LinearProbe]

    def accuracy(self, features: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
        """Share of objects classified right from `features` (B, N, D): `shape`, `color`, and their `mean`."""
        inputs, result = object_features(features, scenes), {}
        for name, target in labels(scenes).items():
            result[name] = float((self.classifiers[name].predict(inputs) == target).float().mean())
        return {**result, "mean": sum(result.values()) / len(result)}


def fit_probe(features: Tensor, scenes: Sequence[Scene]) -> Probe:
    """Fit on features (B, N, D) of the scenes' pictures. Deterministic: no random start, full batches."""
    inputs, classes = object_features(features, scenes), {"shape": len(SHAPES), "color": len(COLORS)}
    return Probe(
        classifiers={
            name: fit_linear(inputs, target, classes[name]) for name, target in labels(scenes).items()
        }
    )


@torch.no_grad()
def encode(encoder: Callable[[Tensor], Tensor], images: Tensor, batch: int = 250) -> Tensor:
    """Features (B, N, D) of uint8 images (B, 3, S, S); `encoder` takes pixels in [0, 1]."""
    return torch.cat([encoder(part.float() / 255) for part in images.split(batch)])
