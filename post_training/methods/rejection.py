"""Rejection-sampling fine-tuning: plain next-code training on the best pictures of each group.

A group whose best do not reach the threshold teaches nothing; what is left counts alike, over all ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common import dist
from post_training.methods.config import RejectionConfig
from post_training.methods.contract import Chosen
from post_training.policy import PolicyOutput


class Rejection:
    """The `keep` best of each group are learned from."""

    refers = entropy_learns = compares = False

    def __init__(self, config: RejectionConfig) -> None:
        self.config = config

    def choose(self, rewards: Tensor, vectors: Tensor | None) -> Chosen:
        """Weights are 0, or all equal and of mean 1 over all ranks. Of equal rewards the earlier picture is taken."""
        best, order = rewards.sort(dim=1, descending=True, stable=True)
        first = torch.arange(len(rewards))[:, None] * rewards.shape[1]
        keep = self.config.keep
        taken = (best[:, :keep] >= self.config.threshold).float().flatten()
        return Chosen((order[:, :keep] + first).flatten(), shared_out(taken)[:, None])

    def loss(
        self, now: PolicyOutput, old: Tensor, reference: Tensor | None, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -(weights * now.log_probs).mean()
        return loss, {"learned_share": (weights > 0).float().mean()}


def shared_out(taken: Tensor) -> Tensor:
    """Of (M,) that are 1 or 0, the ones made so large that the mean over all ranks is 1; all 0 if there is none."""
    count, whole = dist.sum_(torch.stack([taken.sum(), torch.ones_like(taken).sum()])).tolist()
    return taken * (whole / count if count else 0.0)
