"""How an answer is written: how long it may be, and how each token is chosen.

What is notable here: tokens are drawn by adding Gumbel noise to the logits and taking the largest, which draws from
exactly their softmax, with a generator for each answer. So a drawn answer follows from its seed alone: not from
which others are written beside it, nor from what was drawn before, and threads do not disturb each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopPLogitsWarper

from common.errors import UserError

LENGTH = 256  # tokens of an answer at most, unless more are asked for
SEEDS = 2**63


@dataclass(frozen=True)
class Decoding:
    """Settings of an answer.

    Args:
        max_new_tokens: at most. temperature: divides the logits; 0 takes the likeliest token each time.
        top_p: draw from the fewest tokens whose probabilities sum up to at least this, in (0, 1].
        seed: of what is drawn, from 0; None draws something else each time.

    Raises:
        UserError: one of them is out of range.
    """

    max_new_tokens: int = LENGTH
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens: expected 1 or more, found {self.max_new_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature: expected 0 or more, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: expected over 0 and at most 1, found {self.top_p}")
        if self.seed is not None and not 0 <= self.seed < SEEDS:
            raise UserError(f"seed: expected 0 or more, below 2^63, found {self.seed}")

    def draws(self, seeds: Sequence[int] | None, count: int) -> list[LogitsProcessor]:
        """What turns the greedy choice for `count` answers into drawing; nothing at temperature 0.

        Args:
            seeds: one for each answer, in place of `seed` for all of them.
        """
        if self.temperature == 0:
            return []
        if seeds is None:
            # What torch.manual_seed governs.
            seeds = torch.randint(SEEDS - 1, (count,)).tolist() if self.seed is None else [self.seed] * count
        return [GumbelNoise(self.temperature, self.top_p, seeds)]


class GumbelNoise(LogitsProcessor):
    """Logits (B, V) whose largest is drawn from the softmax of `scores / temperature`, cut at `top_p`."""

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._cut = TopPLogitsWarper(top_p) if top_p < 1 else None
        # On the CPU, so that a seed draws the same on any device.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.double() / self._temperature
        if self._cut is not None:
            scores = self._cut(input_ids, scores)
        uniform = [
            torch.rand(scores.shape[1], generator=one, dtype=torch.float64) for one in self._generators
        ]
        # 1 - u is in (0, 1]: its logarithm is finite, and -log of zero is the largest noise there is.
        return scores - torch.log(-torch.log1p(-torch.stack(uniform))).to(scores.device)
