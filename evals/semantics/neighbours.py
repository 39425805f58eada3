"""k nearest neighbours by cosine, each with a vote of exp(cosine / temperature): DINO's protocol (arXiv 2104.14294)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

K = 20
TEMPERATURE = 0.07
BLOCK = 1024
"""Inputs at a time."""


def nearest_neighbours(fitted: Tensor, target: Tensor, inputs: Tensor, classes: int, k: int = K) -> Tensor:
    """Classes (m,) int64 of inputs (m, D) by their `k` nearest, or all where they are fewer, of `fitted` (n, D) with
    targets (n,) in [0, classes)."""
    fitted, k = normalize(fitted.float(), dim=1), min(k, len(fitted))
    found = []
    for part in normalize(inputs.float(), dim=1).split(BLOCK):
        cosine, nearest = (part @ fitted.T).topk(k, dim=1)
        votes = one_hot(target[nearest], classes) * (cosine / TEMPERATURE).exp()[..., None]
        found.append(votes.sum(1).argmax(1))
    return torch.cat(found) if found else target.new_zeros(0)
