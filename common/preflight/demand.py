"""How many pictures GPUs ask for in a second, and how many processes it takes to decode them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from common.training.peaks import peak_of


@dataclass(frozen=True)
class Demand:
    """What a recipe computes, on which GPUs.

    Args:
        flops: of a training step, for each picture.
        gpu: a name of `common.training.efficiency.PEAKS`. gpus: how many of them.
        mfu: share of their peak that training is taken to reach.
        left_out: of the step, so that a GPU may ask for less; empty if nothing is.
    """

    flops: float
    gpu: str
    gpus: int
    mfu: float
    left_out: str = ""

    @property
    def per_gpu(self) -> float:
        """Pictures a second."""
        return peak_of(self.gpu) * self.mfu / self.flops

    def lines(self, per_core: float | None, workers: int) -> list[str]:
        """What is asked, and whether `workers` processes a GPU suffice, of which each decodes `per_core` a second."""
        most = f" at most ({self.left_out} not counted)" if self.left_out else ""
        asked = (
            f"asked for        {self.per_gpu:,.0f} pictures/s by each {self.gpu} at {self.mfu:.0%} of its peak{most}, "
            f"{self.per_gpu * self.gpus:,.0f} by {self.gpus}"
        )
        if per_core is None:
            return [asked]
        needed = math.ceil(self.per_gpu / per_core)
        verdict = "enough" if workers >= needed else "too few, the GPUs would wait"
        return [
            asked,
            f"decoding         {per_core:,.0f} pictures/s on one core of this machine ({os.cpu_count()} cores): "
            f"{needed} workers a GPU are needed, data.workers is {workers}: {verdict}",
        ]
