"""How far a run is, and what it draws next: all that a step depends on beside weights and optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common import dist
from common.data.order import derive_key


@dataclass
class Progress:
    """Where a run stands, the same on all ranks whatever their number.

    Args:
        batch: samples of a step, over all ranks.
        step: optimizer steps done.
        position: samples drawn from the data's global order. Not always `step * batch`: a batch may have been skipped,
            or have had another size.
    """

    batch: int
    step: int = 0
    position: int = 0

    @property
    def batches(self) -> int:
        """Whole batches drawn from the data's order."""
        return self.position // self.batch

    def advance(self) -> None:
        """A step is done."""
        self.step += 1
        self.position += self.batch

    def seed_draws(self, seed: int, turn: int) -> None:
        """Before micro-step `turn` of the step that is coming: what torch draws in it (dropout) follows from the run's
        seed, the step, and the micro-batch's number among those of all ranks. So nothing needs to be saved."""
        torch.manual_seed(derive_key(seed, "draws", self.step, turn * dist.world() + dist.rank()))
