"""Group-relative policy optimisation: a picture is worth as much as it is better than its group's others.

    A = (r - mean) / (std + eps)       loss = - min(q A, clip(q, 1 - clip, 1 + clip_high) A) + kl k3 - entropy H

with q the ratio of the new and the old probability of a code, and k3 = exp(d) - d - 1, d = log reference - log policy
(Schulman, 2020, "Approximating KL divergence"), which is never negative. Sources of the options: `methods/config.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from post_training.methods.config import GRPOConfig
from post_training.methods.contract import Chosen
from post_training.policy import PolicyOutput

EPS = 1e-4  # of the standard deviation: a group of nearly equal rewards is not blown up


class GRPO:
    """All pictures of each group are learned from."""

    def __init__(self, config: GRPOConfig) -> None:
        self.config = config
        self.refers, self.entropy_learns = config.kl > 0, config.entropy > 0
        self.compares = config.similarity

    def choose(self, rewards: Tensor, vectors: Tensor | None) -> Chosen:
        """Weights are advantages."""
        advantages = relative(rewards, self.config.advantage == "std")
        weights = advantages.flatten()[:, None]
        if vectors is not None:
            groups = vectors.unflatten(0, tuple(rewards.shape))
            each = [unlike(*pair) for pair in zip(advantages, groups, strict=True)]
            weights = weights * torch.cat(each)
        return Chosen(torch.arange(rewards.numel()), weights)

    def loss(
        self, now: PolicyOutput, old: Tensor, reference: Tensor | None, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        ratio = (now.log_probs - old).exp()
        kept = ratio.clamp(1 - config.clip, 1 + (config.clip_high or config.clip))
        gain = torch.minimum(ratio * weights, kept * weights)
        loss = -gain.mean()
        if config.kl and reference is not None:
            loss = loss + config.kl * divergence(now.log_probs, reference).mean()
        if config.entropy:
            loss = loss - config.entropy * now.entropy
        clipped = (gain != ratio * weights).float().mean()
        return loss, {"clip_share": clipped}


def relative(rewards: Tensor, divided: bool) -> Tensor:
    """Advantages (P, G) of rewards (P, G); exactly 0 in a group whose rewards are all equal."""
    centred = rewards - rewards.mean(1, keepdim=True)
    if divided:
        centred = centred / (rewards.std(1, correction=0, keepdim=True) + EPS)
    return centred.masked_fill(equal(rewards)[:, None], 0.0)


def equal(rewards: Tensor) -> Tensor:
    """(P, G) -> bool (P,): nothing can be learned from these groups."""
    return rewards.amax(1) == rewards.amin(1)


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """k3 of each code: 0 where both agree."""
    apart = reference - log_probs
    return apart.exp() - apart - 1


def unlike(advantages: Tensor, vectors: Tensor) -> Tensor:
    """How much each code of a group counts: advantages (G,), vectors of unit length (G, N, E) -> (G, N), of mean 1.

    (1 - c) / 2, where c is the mean cosine with the codes at the same place of those pictures whose advantage has not
    the same sign: what both a good and a bad picture show there is not what makes one better.
    """
    alike = torch.einsum("ine,jne->ijn", vectors, vectors)
    others = (advantages[:, None] * advantages[None] <= 0).float().fill_diagonal_(0)
    mean = (alike * others[..., None]).sum(1) / others.sum(1).clamp_min(1)[:, None]
    weights = ((1 - mean) / 2).clamp(0, 1)
    total = weights.mean()
    return weights / total if total > 0 else torch.ones_like(weights)
