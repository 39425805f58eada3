"""What is measured between two lines: means of terms, what was done per second, memory.

Terms are summed on the device; the host waits for it only when a line is due. The same goes for the check that
all terms are finite: the first bad step of each term is remembered on the device and read at the next line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common import dist
from common.errors import UserError


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite."""


class Terms:
    """Means of scalar terms between two lines, over micro-steps and ranks."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.first_bad: dict[str, Tensor] = {}

    def add(self, step: int, **terms: Tensor) -> None:
        """Detached scalars of one micro-step; no device sync."""
        for name, value in terms.items():
            value = value.detach().float()
            if name not in self.sums:
                self.sums[name] = torch.zeros((), device=self.device, dtype=torch.float64)
                self.counts[name] = 0
            if name not in self.first_bad:
                self.first_bad[name] = torch.full((), -1.0, device=self.device)
            bad = ~torch.isfinite(value) & (self.first_bad[name] < 0)
            self.first_bad[name] = torch.where(bad, float(step), self.first_bad[name])
            self.sums[name] += value
            self.counts[name] += 1

    def check_finite(self) -> None:
        """Raises `NonFiniteLoss` naming term, step and rank; on all ranks alike."""
        names = sorted(self.first_bad)
        mine = torch.stack([self.first_bad[name] for name in names]).tolist() if names else []
        found = [(step, name) for name, step in zip(names, mine, strict=True) if step >= 0]
        every = [(*min(bad), rank) for rank, bad in enumerate(dist.gather_objects(found)) if bad]
        if every:
            step, name, rank = min(every)
            raise NonFiniteLoss(f"loss term {name}: not finite at step {int(step)} on rank {rank}")

    def take(self) -> dict[str, float]:
        """Means since the last call, over ranks; then starts anew. All ranks call it with the same terms."""
        names = sorted(self.sums)
        if not names:
            return {}
        totals = torch.stack([self.sums[name] / self.counts[name] for name in names])
        means = (dist.sum_(totals) / dist.world()).tolist()
        self.sums, self.counts = {}, {}
        return dict(zip(names, means, strict=True))


class Stopwatch:
    """What was done per second between two lines, over all ranks, and the share of that time spent waiting for data.

    Counts of this rank are plain numbers on the host; they are summed over ranks when a line is due.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start()

    def _start(self) -> None:
        self.since, self.waited = time.perf_counter(), 0.0
        self.counts: dict[str, float] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    def count(self, **amounts: float) -> None:
        """Add what this rank has done, such as `images=4`."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0.0) + amount

    def take(self) -> dict[str, float]:
        """`NAME_per_second` of all that was counted, and `data_wait`; then starts anew. Called on all ranks, with the
        same names, where the device has just been waited for."""
        elapsed = time.perf_counter() - self.since
        totals = dist.sum_(torch.tensor(list(self.counts.values()), device=self.device)).tolist()
        rates = {
            f"{name}_per_second": total / elapsed for name, total in zip(self.counts, totals, strict=True)
        }
        values = {**rates, "data_wait": self.waited / elapsed}
        self._start()
        return values


def memory_gib(device: torch.device) -> float:
    """Peak memory: the device's allocation on CUDA, the process's resident set on a CPU; GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
