"""What the pictures of a step are worth: several scorers with weights, whose own figures stay visible; and a judge that
is none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.scorers.held_out import check_held_out
from evals.scorers.opening import open_scorer, open_weighted
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import Scorer
from evals.scorers.weighted import WeightedScorer
from post_training.config import PostTrainingConfig
from post_training.rollouts import Drawn


@dataclass(frozen=True)
class Scored:
    """Of this rank's P groups of G pictures, on the CPU.

    Args:
        rewards: (P, G) float32 in [0, 1]. parts: the same of each scorer, by name.
    """

    rewards: Tensor
    parts: dict[str, Tensor]


def open_rewards(
    config: PostTrainingConfig, prompts: Sequence[ScoredPrompt], device: torch.device
) -> WeightedScorer:
    """Raises:
    UserError: a scorer is absent or damaged, or cannot judge one of the prompts.
    """
    return open_weighted(config.rewards, prompts, "rewards", device)


def open_judge(
    config: PostTrainingConfig, prompts: Sequence[ScoredPrompt], rewards: WeightedScorer, device: torch.device
) -> Scorer | None:
    """The held-out judge; None without one.

    Raises:
        UserError: as above; or it looks at pictures with what a reward looks with.
    """
    if config.held_out is None:
        return None
    judge = open_scorer(config.held_out.judge, prompts, "held_out.judge", device)
    check_held_out(judge, rewards, f"held_out.judge: {config.held_out.judge.called}")
    return judge


def score(scorers: WeightedScorer, drawn: Drawn) -> Scored:
    """Each group by each scorer; the reward is their weighted mean."""
    size = len(drawn.pictures) // len(drawn.groups)
    rewards: list[list[float]] = []
    parts: dict[str, list[list[float]]] = {name: [] for name in scorers.scorers}
    for place, group in enumerate(drawn.groups):
        found = scorers.parts(group.prompt, drawn.pictures[place * size : (place + 1) * size])
        rewards.append(scorers.total(found))
        for name, scores in found.items():
            parts[name].append(scores)
    # Stated, since a scorer's numbers may be numpy's: ranks with tensors of other sizes would wreck each other's sums.
    tensors = {name: torch.tensor(scores, dtype=torch.float32) for name, scores in parts.items()}
    return Scored(torch.tensor(rewards, dtype=torch.float32), tensors)
