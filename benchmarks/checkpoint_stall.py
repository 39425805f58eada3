"""How long a save keeps training waiting, by way of saving.

    python -m benchmarks.checkpoint_stall --folder DIR    # DIR: on the disk to measure; takes 15 GB there
    python -m benchmarks.checkpoint_stall --folder DIR --millions 20

The state is that of AdamW in float32: weights and two moments, 12 bytes a parameter. Each way has a process of its own
and saves three times; told are medians. `torch.save`, ours in the foreground and ours in the background save the same
tensors, read from a mapped file, so that the copy that the background wants is all the memory that is taken.
DeepSpeed's `save_checkpoint` and ours in the foreground save the same engine under ZeRO-1; ours gathers each tensor
whole on the way. Ours are flushed to disk and hashed; torch and DeepSpeed do neither. The engine has done one step, so
that it has moments to save.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import in_own_process
from common.command import described_parser, positive
from common.errors import run_cli

WAYS = ("torch.save", "ours", "ours, in the background", "DeepSpeed", "ours, of an engine")
WIDTH = 2048
SAVES = 3


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="emptied of what is measured afterwards")
    parser.add_argument(
        "--millions", type=positive, default=300, metavar="N", help="parameters (default: 300)"
    )
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    print("| way | training waits, s | on disk after, s | bytes |\n|---|---|---|---|")
    for way in WAYS:
        words = ("--folder", arguments.folder, "--millions", arguments.millions, "--way", way)
        found = in_own_process("benchmarks.checkpoint_stall", *words)
        print(
            f"| {way} | {found['stall']:.1f} | {found['whole']:.1f} | {found['bytes'] / 1e9:.1f}e9 |",
            flush=True,
        )


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds that a save takes from training, and until it is whole; medians."""
    folder: Path = arguments.folder / "stall"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        layers = -(-arguments.millions * 10**6 // WIDTH**2)
        of_engine = arguments.way in WAYS[3:]
        save, wait = (_of_engine if of_engine else _of_tensors)(arguments.way, folder, layers)
        times = []
        for step in range(1, SAVES + 1):
            start = time.perf_counter()
            save(step)
            stall = time.perf_counter() - start
            wait()
            times.append((stall, time.perf_counter() - start))
        stored = sum(
            path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "state"
        )
        stall, whole = (statistics.median(column) for column in zip(*times, strict=True))
        return {"stall": stall, "whole": whole, "bytes": stored}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_tensors(way: str, folder: Path, layers: int) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    import torch

    from common.training.checkpoint import Checkpoints

    size = layers * 3 * WIDTH**2
    state = torch.from_file(str(folder / "state"), shared=True, size=size, dtype=torch.float32)
    tensors = dict(enumerate(state.view(layers * 3, WIDTH, WIDTH)))
    for tensor in tensors.values():
        tensor.fill_(0.5)
    if way == "torch.save":
        return lambda step: torch.save(tensors, folder / "saved.pt"), lambda: None
    checkpoints = Checkpoints(folder, keep=1, background=way != "ours")
    given = [(str(key), tensor) for key, tensor in tensors.items()]
    return lambda step: checkpoints.save(step, given, {"step": step}), checkpoints.wait


def _of_engine(way: str, folder: Path, layers: int) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    import torch
    from torch import Tensor, nn

    from common import dist
    from common.training.checkpoint import Checkpoints
    from common.training.engine import BatchConfig, EngineConfig, deepspeed_config, start_engine
    from common.training.engine_state import engine_tensors
    from common.training.optim import parameter_groups

    dist.start()

    class Sum(nn.Module):
        """Matrices whose gradients cost no products."""

        def __init__(self) -> None:
            super().__init__()
            self.matrices = nn.ParameterList(torch.zeros(WIDTH, WIDTH) for _ in range(layers))

        def forward(self) -> Tensor:
            return torch.stack([matrix.sum() for matrix in self.matrices]).sum()

    model = Sum()
    settings = deepspeed_config(
        EngineConfig(zero_stage=1, precision="fp32"), BatchConfig(global_size=1, micro_size=1), 1, None
    )
    groups = parameter_groups("all", [model], 1e-4, 0.0)
    engine = start_engine(model, groups, lambda group: lambda step: 1.0, (0.9, 0.99), 1e-8, settings)
    engine.backward(engine())
    engine.step()
    if way == "DeepSpeed":
        return lambda step: engine.save_checkpoint(str(folder), tag="saved"), lambda: None
    checkpoints = Checkpoints(folder, keep=1)

    def tensors() -> Iterator[tuple[str, Tensor | None]]:
        return engine_tensors(engine, "engine")

    return lambda step: checkpoints.save(step, tensors(), {"step": step}), checkpoints.wait


if __name__ == "__main__":
    run_cli(main)
