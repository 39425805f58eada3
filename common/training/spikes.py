"""Loss spikes: a step whose loss stands far above the recent ones is not taken.

The loss of the whole step (over micro-steps and ranks) is compared with the running median of earlier steps,
in units of their spread, before the last backward pass. A spike is vetoed by turning that pass's loss into
NaN: then no gradient of the step is finite, on all ranks alike, and the engine drops it as any such step, at
every ZeRO stage. All of this happens on the device; the host waits for nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from common import dist
from common.config import Count, Rate, configclass

# The median of |x - median| times this estimates a normal distribution's standard deviation.
MAD_TO_DEVIATION = 1.4826
# Losses closer than this share of the median never differ enough to be a spike.
FLOOR = 1e-3


@configclass
class SpikeConfig:
    """Which loss is a spike.

    Args:
        deviations: how many standard deviations (estimated robustly) above the running median.
        window: steps that median and deviation are taken of; nothing is a spike before half of them were
            seen.
    """

    deviations: Rate = 10.0
    window: Count = 128


class SpikeWatch:
    """The recent losses, and whether the latest is a spike; the same on all ranks."""

    def __init__(self, config: SpikeConfig, device: torch.device) -> None:
        self.config = config
        self.recent = torch.full((config.window,), math.nan, device=device)
        self.place = 0
        self.spike = torch.zeros((), dtype=torch.bool, device=device)
        """Whether the step that is under way is one."""
        self._start()

    def _start(self) -> None:
        self.total, self.count = torch.zeros((), device=self.recent.device), 0

    def veto(self, loss: Tensor, last: bool) -> Tensor:
        """The scalar loss of a micro-step, to be called before its backward pass; NaN if the step is a spike.

        Args:
            last: whether it is the step's last; then it is a collective.
        """
        self.total, self.count = self.total + loss.detach().float(), self.count + 1
        if not last:
            return loss
        mean = dist.sum_(self.total.clone()) / (self.count * dist.world())
        self._start()
        center = self.recent.nanmedian()
        deviation = (self.recent - center).abs().nanmedian() * MAD_TO_DEVIATION
        deviation = torch.maximum(deviation, FLOOR * center.abs())
        enough = (~self.recent.isnan()).sum() * 2 >= len(self.recent)
        self.spike = enough & (mean > center + self.config.deviations * deviation)
        here = self.place % len(self.recent)
        fit = torch.isfinite(mean) & ~self.spike
        self.recent[here] = torch.where(fit, mean, self.recent[here])
        self.place += 1
        return loss * torch.where(self.spike, math.nan, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        recent = [None if math.isnan(value) else value for value in self.recent.tolist()]
        return {"recent": recent, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of a window of another length, the first so many."""
        recent = [math.nan if value is None else value for value in state["recent"]][: len(self.recent)]
        self.recent.fill_(math.nan)
        self.recent[: len(recent)] = torch.tensor(recent)
        self.place = state["place"]
