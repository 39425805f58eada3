"""A linear probe: what can be read, linearly, from a model's features of each thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

WEIGHT_DECAY = 1e-4  # on the classifier's weights, features standardised
ITERATIONS = 200  # of L-BFGS at most


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Standardisation (D,) and a linear classifier, weight (D, classes) and bias (classes,)."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def predict(self, inputs: Tensor) -> Tensor:
        """Classes (n,) int64 of inputs (n, D)."""
        return ((inputs - self.mean) / self.std @ self.weight + self.bias).argmax(1)


def fit_linear(inputs: Tensor, target: Tensor, classes: int) -> LinearProbe:
    """A logistic regression on (n, D) float32, of targets (n,) in [0, classes). Deterministic: no random start, full
    batches."""
    mean, std = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    inputs = (inputs - mean) / std
    weight = torch.zeros(inputs.shape[1], classes, device=inputs.device, requires_grad=True)
    bias = torch.zeros(classes, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weight + bias, target) + WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(mean=mean, std=std, weight=weight.detach(), bias=bias.detach())


def box_means(features: Tensor, boxes: Sequence[Sequence[Sequence[float]]]) -> Tensor:
    """The mean feature over each box: (B, N, D), and boxes of each picture -> (boxes, D) float32, pictures' in order.

    Tokens are in raster order on a square grid over the picture; a token counts by the share of it in the box.

    Args:
        boxes: (left, top, right, bottom) as shares of the picture's sides.

    Raises:
        ValueError: no square grid, or not a list of boxes for each picture.
    """
    grid = round(features.shape[1] ** 0.5)
    if grid * grid != features.shape[1]:
        raise ValueError(f"features: expected a square grid of tokens, got {features.shape[1]}")
    if len(features) != len(boxes):
        raise ValueError(f"features: expected {len(boxes)} images, one per scene, got {len(features)}")
    weights, rows = [], []
    cells = torch.arange(grid, dtype=torch.float32)
    for row, own in enumerate(boxes):
        for left, top, right, bottom in own:
            across, down = (
                (torch.clamp(cells + 1, max=high * grid) - torch.clamp(cells, min=low * grid)).clamp(min=0)
                for low, high in ((left, right), (top, bottom))
            )
            covered = torch.outer(down, across).flatten()
            weights.append(covered / covered.sum())
            rows.append(row)
    if not rows:
        return features.new_zeros((0, features.shape[2]), dtype=torch.float32)
    picked = features.detach().float()[torch.tensor(rows, device=features.device)]
    return torch.einsum("on,ond->od", torch.stack(weights).to(features.device), picked)
