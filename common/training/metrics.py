"""What is measured between two lines: means of terms, what was done per second, memory.

Terms are summed on the device; the host waits for it only when a line is due. The same goes for those that are not
finite: they are counted on the device, with the first step of each, and read by the guard.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common import dist


class _Block:
    """Terms that are always added together, as vectors of one element each."""

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names), device=device, dtype=torch.float64)
        self.counts = torch.zeros(len(names), device=device, dtype=torch.float64)
        self.bad = torch.zeros(len(names), device=device, dtype=torch.int64)
        self.first_bad = torch.full((len(names),), -1, device=device)


class Terms:
    """Means of scalar terms between two lines, over micro-steps and ranks: of finite values, the others are counted."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.blocks: dict[tuple[str, ...], _Block] = {}
        self.bad_step = torch.zeros((), dtype=torch.bool, device=device)
        """Whether a term was not finite since `end_step`."""

    def add(self, step: int, **terms: Tensor) -> None:
        """Detached scalars of one micro-step; no device sync."""
        names = tuple(terms)
        if names not in self.blocks:
            self.blocks[names] = _Block(names, self.device)
        block = self.blocks[names]
        values = torch.stack([value.detach().float() for value in terms.values()]).double()
        finite = torch.isfinite(values)
        block.sums += torch.where(finite, values, 0.0)
        block.counts += finite
        block.first_bad = torch.where(~finite & (block.bad == 0), step, block.first_bad)
        block.bad += ~finite
        self.bad_step = self.bad_step | ~finite.all()

    def end_step(self) -> Tensor:
        """A bool on the device: whether a term of this step was not finite on this rank."""
        bad, self.bad_step = self.bad_step, torch.zeros_like(self.bad_step)
        return bad

    def take_bad(self) -> dict[str, tuple[int, int]]:
        """This rank's terms that were not finite since the last call: the first such step, and how often. Waits for
        the device."""
        found: dict[str, tuple[int, int]] = {}
        for block in self.blocks.values():
            firsts, counts = torch.stack([block.first_bad, block.bad]).tolist()
            for name, first, count in zip(block.names, firsts, counts, strict=True):
                if count:
                    before = found.get(name, (first, 0))
                    found[name] = (min(first, before[0]), count + before[1])
            block.bad.zero_()
        return found

    def clear(self) -> None:
        """Forget what was added since the last line."""
        self.blocks = {}

    def take(self) -> dict[str, float]:
        """Means since the last call, over ranks; NaN of a term that was never finite. Then starts anew, also with what
        `take_bad` gives. All ranks call it with the same terms."""
        columns: dict[str, Tensor] = {}
        for (
            block
        ) in self.blocks.values():  # a term may stand in two, where another joined it between the lines
            for name, column in zip(block.names, torch.stack([block.sums, block.counts], 1), strict=True):
                columns[name] = columns[name] + column if name in columns else column
        names = sorted(columns)
        if not names:
            return {}
        sums, counts = dist.sum_(torch.stack([columns[name] for name in names])).unbind(1)
        self.clear()
        return dict(zip(names, (sums / counts).tolist(), strict=True))


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
