"""Direct preference optimisation: the best picture of a group is made likelier than the worst, against the reference.

    loss = - log sigmoid(beta ((w - w_reference) - (l - l_reference))),    w, l: log-probabilities of whole pictures

Pairs come from the policy's own rollouts, anew at each step, so it is the method on-line.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from post_training.methods.config import DPOConfig
from post_training.methods.contract import Chosen
from post_training.methods.rejection import shared_out
from post_training.policy import PolicyOutput


class DPO:
    """Two of each group are learned from, the best and behind it the worst; a micro-batch holds whole pairs."""

    refers = True
    entropy_learns = compares = False

    def __init__(self, config: DPOConfig) -> None:
        self.config = config

    def choose(self, rewards: Tensor, vectors: Tensor | None) -> Chosen:
        """Weights are 0, or all equal and of mean 1 over all ranks."""
        best, worst = rewards.argmax(1), rewards.argmin(1)
        apart = rewards.amax(1) - rewards.amin(1)
        first = torch.arange(len(rewards)) * rewards.shape[1]
        index = torch.stack([best + first, worst + first], 1).flatten()
        weights = shared_out((apart > self.config.margin).float())
        return Chosen(index, weights.repeat_interleave(2)[:, None])

    def loss(
        self, now: PolicyOutput, old: Tensor, reference: Tensor | None, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert reference is not None
        better, worse = (now.log_probs - reference).sum(1).unflatten(0, (-1, 2)).unbind(1)
        margin = self.config.beta * (better - worse)
        loss = -(weights[::2, 0] * F.logsigmoid(margin)).mean()
        shown = margin.detach()
        return loss, {"preferred": (shown > 0).float().mean(), "margin": shown.mean()}
