"""The contract of a method: which pictures of a group it learns from, and what it minimises on them.

Legend: P prompts of this rank, G pictures of each, M pictures learned from, m of them in a micro-batch, N codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from post_training.policy import PolicyOutput


@dataclass(frozen=True)
class Chosen:
    """What is learned from.

    Args:
        index: (M,) int64, into the rank's P G pictures; the same M on all ranks and in all steps.
        weights: (M, 1) or (M, N) float32, what `Method.loss` makes of them; 0 learns nothing.
    """

    index: Tensor
    weights: Tensor


class Method(Protocol):
    """A sibling of this folder.

    Attributes:
        refers: whether `loss` reads the reference's log-probabilities.
        entropy_learns: whether it reads an entropy with a gradient.
    """

    refers: bool
    entropy_learns: bool

    def choose(self, rewards: Tensor, vectors: Tensor | None) -> Chosen:
        """All ranks call it together.

        Args:
            rewards: (P, G) float32.
            vectors: (P G, N, E), the code vectors of unit length; None unless `compares`.
        """
        ...

    @property
    def compares(self) -> bool:
        """Whether `choose` reads code vectors."""
        ...

    def loss(
        self, now: PolicyOutput, old: Tensor, reference: Tensor | None, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a micro-batch: the mean over its m pictures, so that micro-batches of one size may be averaged.

        Args:
            now: of the policy, with gradients. old: (m, N), of the policy that drew. reference: (m, N).

        Returns:
            A scalar, and detached scalars for the line.
        """
        ...
