"""Parameter groups and learning rates.

Rates follow the number of steps done, which is ours: not the number of steps that an engine made of them, which is
less where steps were dropped, nor what a checkpoint holds, which may be of another recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from torch import nn

from common.config import Rate, ShareBelowOne, Weight, configclass, within

# By module type, never by a substring of a name: matrices decay; norms, biases, positions and scales do not.
DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@configclass
class AdamWConfig:
    """AdamW as in Table 7. `max_grad_norm` null clips nothing."""

    betas: Annotated[
        tuple[float, float],
        within("two numbers in [0, 1)", lambda betas: all(0 <= beta < 1 for beta in betas)),
    ]
    weight_decay: Weight
    eps: Annotated[float, within("a positive number up to 1", lambda eps: 0 < eps <= 1)] = 1e-8
    max_grad_norm: Rate | None


@configclass
class MuonConfig:
    """Muon (Jordan et al. 2024) for the matrices inside a model; AdamW keeps embeddings, head and norms.

    Each update is an orthogonal matrix, so that its size is the rate's alone: 0.01 to 0.02 in most models. On the
    demo's codes it took 3 of AdamW's 5 steps to the same loss.

    Args:
        lr: peak rate; follows the schedule of AdamW's. momentum: Nesterov's.
    """

    lr: Rate
    momentum: ShareBelowOne = 0.95

    def check(self, adamw: AdamWConfig) -> None:
        """Raises `ValueError` beside an AdamW that clips: DeepSpeed would measure and shrink Muon's finished updates
        together with AdamW's gradients."""
        if adamw.max_grad_norm is not None:
            raise ValueError(
                "adamw.max_grad_norm: expected null beside muon, whose updates have a fixed size"
            )


def parameter_groups(
    role: str, modules: Iterable[nn.Module], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW groups of the parameters that require a gradient: one that decays and one that does not.

    Each group bears `name` (`role` or `role/no_decay`) and its peak rate `lr`. A parameter that two modules share (a
    tied head) counts once, as that of the first.
    """
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in modules:
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    (decay if isinstance(part, DECAYED) and name == "weight" else rest).append(parameter)
    groups = [
        {"name": role, "params": decay, "lr": lr, "weight_decay": weight_decay},
        {"name": f"{role}/no_decay", "params": rest, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def with_muon(groups: list[dict[str, Any]], muon: MuonConfig, head: nn.Parameter) -> list[dict[str, Any]]:
    """The groups of `parameter_groups`; all matrices that decay, but the `head`, now in groups of Muon's."""
    result = []
    for group in groups:
        decays = not group["name"].endswith("/no_decay")
        matrices = [p for p in group["params"] if decays and p.ndim == 2 and p is not head]
        taken = {id(matrix) for matrix in matrices}
        rest = [p for p in group["params"] if id(p) not in taken]
        mine = {"name": f"{group['name']}/muon", "lr": muon.lr, "momentum": muon.momentum, "use_muon": True}
        result += [{**group, "params": rest, "use_muon": False}, {**group, **mine, "params": matrices}]
    return [group for group in result if group["params"]]


def warmup_steps(ratio: float, steps: int) -> int:
    """A share of all steps, rounded up as transformers' Trainer does."""
    return math.ceil(steps * ratio)


def cosine_factor(peak: float, end: float, warmup: int, total: int) -> Callable[[int], float]:
    """Step -> rate / peak: linear from 0 over `warmup` steps, then a half cosine to `end` at `total`."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return (end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2) / peak

    return factor


def constant_factor(warmup: int) -> Callable[[int], float]:
    """Step -> rate / peak: linear from 0 over `warmup` steps, then 1."""
    return lambda step: min(1.0, step / warmup) if warmup else 1.0


class Rates:
    """The learning rates of an engine's groups, as functions of the steps done.

    Args:
        schedules: of each group its peak rate, and steps done -> rate / peak rate.
    """

    def __init__(self, schedules: Sequence[tuple[float, Callable[[int], float]]]) -> None:
        self.schedules = schedules

    def set(self, optimizer: Any, done: int) -> None:
        """For the step after `done` steps; before each step. `optimizer` is an engine's, or torch's."""
        for group, (peak, factor) in zip(optimizer.param_groups, self.schedules, strict=True):
            group["lr"] = peak * factor(done)
