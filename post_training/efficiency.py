"""How fast rollouts and updates are, and which share of a step's time each takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from common import dist

Phase = Literal["draw", "score", "update"]
PHASES: tuple[Phase, ...] = ("draw", "score", "update")


class StepClock:
    """Counts between two lines.

    Args:
        device: waited for at the end of each phase, three times a step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start()

    def _start(self) -> None:
        self.since = time.perf_counter()
        self.spent = dict.fromkeys(PHASES, 0.0)
        self.pictures, self.updates = 0, 0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        before = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.spent[name] += time.perf_counter() - before

    def count(self, pictures: int, updates: int) -> None:
        """What this rank drew, and how often all ranks together updated."""
        self.pictures += pictures
        self.updates += updates

    def take(self) -> dict[str, float]:
        """Pictures drawn and updates made per second since the last call, and shares of that time, the mean over ranks;
        then starts anew. All ranks call it together."""
        elapsed = time.perf_counter() - self.since
        shares = [self.spent[name] / elapsed for name in PHASES]
        totals = dist.sum_(torch.tensor([float(self.pictures), *shares], device=self.device)).tolist()
        values = {"rollouts_per_second": totals[0] / elapsed, "updates_per_second": self.updates / elapsed}
        values |= {
            f"{name}_share": total / dist.world() for name, total in zip(PHASES, totals[1:], strict=True)
        }
        self._start()
        return values
