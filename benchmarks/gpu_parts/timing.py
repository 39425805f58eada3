"""How long a step takes, how much memory, which share of the GPU's peak, and how long the GPU waits meanwhile."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.part import Row
from common.training.efficiency import peak_flops
from common.training.metrics import memory_gib

WARM_UP, STEPS = 3, 10
PROFILED = 3
AT_MOST = 15.0  # seconds of timed steps
ON_THE_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def time_steps(
    what: str,
    step: Callable[[], object],
    device: torch.device,
    *,
    unit: str,
    amount: float,
    batch: int,
    flops: float | None = None,
    note: str = "",
    check: bool = False,
) -> Row:
    """One row of the table; times are medians.

    Args:
        unit, amount: what a step works on, and how many of it ("images", 32).
        flops: useful operations of a step.
    """
    for _ in range(1 if check else WARM_UP):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _on_gpu(step, device) if device.type == "cuda" else _on_cpu(step, 1 if check else STEPS)
    row: Row = {
        "what": what,
        "batch": batch,
        "unit": unit,
        "per_second": amount / seconds,
        "ms": 1000 * seconds,
        "memory_gib": memory_gib(device),
        "note": note,
    }
    peak = peak_flops(device)
    if flops is not None:
        row["flops"] = flops
        if peak is not None:
            row["mfu"] = flops / seconds / peak
    if device.type == "cuda":
        busy = busy_seconds(step, device)
        if busy:
            row["waiting"] = max(0.0, 1 - busy / seconds)
    return row


def _on_gpu(step: Callable[[], object], device: torch.device) -> float:
    """Median seconds between the ends of steps on the device, which is never waited for in between."""
    marks = [torch.cuda.Event(enable_timing=True)]
    marks[0].record()
    started = time.perf_counter()
    while len(marks) <= STEPS and time.perf_counter() - started < AT_MOST:
        step()
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
    torch.cuda.synchronize(device)
    return statistics.median(before.elapsed_time(after) for before, after in pairwise(marks)) / 1000


def _on_cpu(step: Callable[[], object], steps: int) -> float:
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def busy_seconds(step: Callable[[], object], device: torch.device) -> float | None:
    """Seconds a step in which the device computes or copies, by torch's profiler; None where that may not look.

    Only these are taken from it: the profiler slows the host, and so the step as a whole, but no kernel.
    """
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(PROFILED):
                step()
            torch.cuda.synchronize(device)
        with tempfile.TemporaryDirectory() as scratch:
            trace = Path(scratch, "trace.json")
            recorded.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    except (RuntimeError, OSError, ValueError):
        return None
    return union_seconds(events) / PROFILED or None


def union_seconds(events: Iterable[dict[str, Any]]) -> float:
    """Seconds in which at least one event of a trace ran on the device; streams overlap."""
    spans = sorted(
        (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in events
        if event.get("cat") in ON_THE_DEVICE and "dur" in event
    )
    total, end = 0.0, float("-inf")
    for begin, stop in spans:
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total / 1e6
