"""What a start costs in a set of 100 million samples, beside one of a million.

    python -m benchmarks.many_shards --out /tmp/many_shards

Makes a few real tars of 10,000 samples and indexes them as `vqrae index` does; thousands of names are hard links to
these tars and to their index files, so that the count file, the names and the order are those of a large set and the
disk holds a small one. Then, in processes forked after all imports, for each size: opening the source to the first
batch, the same in the middle of the epoch, and the memory of the workers after many batches. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import tarfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.command import described_parser, positive
from common.data.config import DataConfig, SourceConfig
from common.data.shards import shard_paths
from common.data.stream import training_loader
from common.data.tars.catalogue import catalogued
from common.data.tars.store import FOLDER, keep_counts
from common.errors import run_cli

TARS = 4
SAMPLES = 10_000  # of a tar
SIZE = 32  # px
DATA = DataConfig(image_size=SIZE, sources=(SourceConfig(kind="folder", path="x"),), workers=2)
BATCH = 16


def make_tar(path: Path, seed: int) -> None:
    """Samples of a noise JPEG and a caption."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for number in range(SAMPLES):
            buffer = io.BytesIO()
            pixels = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), np.uint8), 8, 0), 8, 1)
            Image.fromarray(pixels).save(buffer, "JPEG")
            for ending, content in (
                ("jpg", buffer.getvalue()),
                ("txt", f"picture {number} of {seed}".encode()),
            ):
                member = tarfile.TarInfo(f"{seed:03d}{number:06d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def make_set(folder: Path, shards: int, tars: list[Path]) -> None:
    """`shards` names for the real tars, with an index of the real form."""
    if (folder / FOLDER / "counts.json").is_file():
        return
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    summaries = catalogued([str(tar) for tar in tars]).counts.rows()
    told = {}
    for shard in range(shards):
        tar, name = tars[shard % len(tars)], f"{shard:05d}.tar"
        os.link(tar, folder / name)
        os.link(tar.parent / FOLDER / f"{tar.name}.safetensors", folder / FOLDER / f"{name}.safetensors")
        told[name] = summaries[str(tar)]
    keep_counts(str(folder), told)


def measure(folder: Path, start: float, batches: int, answers: Any) -> None:
    """Sends seconds to opening and to the first batch, and MiB of the process and of its workers after many batches."""
    began = time.perf_counter()
    config = replace(DATA, sources=(SourceConfig(kind="shards", path=str(folder)),))
    loader = training_loader(config, 0, micro_batch=BATCH)
    opened = time.perf_counter()
    loader.start = int(start * len(loader.stream._sources[0]))  # type: ignore[arg-type]
    stream = iter(loader)
    next(stream)
    first = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    workers = [process.pid for process in multiprocessing.active_children() if process.pid]
    memory = [_memory(pid) for pid in (os.getpid(), *workers)]
    answers.send((opened - began, first - began, *memory[0], *max(memory[1:])))


def _memory(pid: int) -> tuple[float, float]:
    """MiB resident, and of them those that no other process shares."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    amounts = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in told[1:]}
    return amounts["Rss"], amounts["Private_Clean"] + amounts["Private_Dirty"]


def forked(folder: Path, start: float, batches: int) -> tuple[float, ...]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(folder, start, batches, theirs))
    process.start()
    answer = ours.recv()
    process.join()
    return tuple(answer)


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the tars are made, and stay"
    )
    parser.add_argument(
        "--shards", type=positive, nargs=2, default=[100, 10_000], metavar="N", help="sizes to compare"
    )
    parser.add_argument("--repeats", type=positive, default=7, metavar="N")
    parser.add_argument(
        "--batches", type=positive, default=300, metavar="N", help="read before memory is measured"
    )
    arguments = parser.parse_args()
    run_cli(lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> None:
    tars = [arguments.out / "tars" / f"{number}.tar" for number in range(TARS)]
    tars[0].parent.mkdir(parents=True, exist_ok=True)
    for seed, path in enumerate(tars):
        if not path.is_file():
            make_tar(path, seed)
    began = time.perf_counter()
    catalogued(shard_paths(str(tars[0].parent)))
    print(f"scanned {TARS * SAMPLES} samples in {time.perf_counter() - began:.1f} s")
    sets = [arguments.out / f"set{shards}" for shards in arguments.shards]
    for folder, shards in zip(sets, arguments.shards, strict=True):
        make_set(folder, shards, tars)
    found: dict[tuple[float, Path], list[tuple[float, ...]]] = {}
    for _ in range(arguments.repeats):  # in turns, so that a slow moment is shared
        for start in (0.0, 0.5):
            for folder in sets:
                found.setdefault((start, folder), []).append(forked(folder, start, arguments.batches))
    names = (
        "source opened, s",
        "first batch, s",
        "trainer, MiB",
        "trainer alone, MiB",
        "worker, MiB",
        "worker alone, MiB",
    )
    print(
        f"| | {' | '.join(f'{shards * SAMPLES:,} samples' for shards in arguments.shards)} | ratio |\n|---|---|---|---|"
    )
    for start in (0.0, 0.5):
        for column, name in enumerate(names):
            small, large = (statistics.median(row[column] for row in found[start, folder]) for folder in sets)
            print(
                f"| {'resumed: ' if start else ''}{name} | {small:.3f} | {large:.3f} | {large / small:.2f} |"
            )


if __name__ == "__main__":
    main()
