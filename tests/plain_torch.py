"""AdamW as every recipe means it, in plain torch: what engines are held against."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn


def cosine(step: int, peak: float, end: float, warmup: int, total: int) -> float:
    """The rate of step `step`, from 0: linear over the warm-up, then half a cosine to `end`."""
    if step < warmup:
        return peak * step / warmup
    return end + (peak - end) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


class PlainAdamW:
    """Matrices and kernels decay, all else does not (tables of embeddings neither); gradients are clipped together.

    Args:
        parts: modules, each with the rate of a step, from 0.
    """

    def __init__(
        self,
        parts: list[tuple[nn.Module, Callable[[int], float]]],
        betas: tuple[float, float] = (0.8, 0.95),
        eps: float = 1e-6,
        decay: float = 0.3,
        clip: float = 0.4,
    ) -> None:
        self.rates: list[Callable[[int], float]] = []
        self.learned: list[nn.Parameter] = []
        groups, seen = [], set()
        for model, rate in parts:
            for module in model.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    if not parameter.requires_grad or id(parameter) in seen:
                        continue
                    seen.add(id(parameter))
                    decays = isinstance(module, (nn.Linear, nn.Conv2d)) and name == "weight"
                    groups.append({"params": [parameter], "weight_decay": decay if decays else 0.0})
                    self.rates.append(rate)
                    self.learned.append(parameter)
        self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps)
        self.clip, self.steps = clip, 0

    def step(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate(self.steps)
        for (
            parameter
        ) in self.learned:  # a step without pictures leaves the projector a gradient of 0, and not none
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_(self.learned, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
