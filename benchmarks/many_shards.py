"""What a start costs in a set of 100 million samples, beside one of a million.

    python -m benchmarks.many_shards --out runs/many_shards

Makes a few real tars of 10,000 samples and indexes them as `vqrae index` does; thousands of names are hard links to
these tars and to their index files, so that the count file, the names and the order are those of a large set and the
disk holds a small one. Then, for each size, in processes that begin as a trainer's do: the time to the first batch,
the same in the middle of the epoch, and the memory of the workers after many batches. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

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


def measure(folder: str, start: float, batches: int, spawned: float) -> None:
    """Prints what it took, in processor time and by the clock from `spawned` on, to the source and to the first batch,
    and MiB of the process and of its largest worker after many batches."""
    imported, imported_cpu = time.time(), time.process_time()
    config = replace(DATA, sources=(SourceConfig(kind="shards", path=folder),))
    loader = training_loader(config, 0, micro_batch=BATCH)
    opened, opened_cpu = time.time(), time.process_time()
    loader.start = int(start * len(loader.stream.sources[0]))  # type: ignore[arg-type]
    stream = iter(loader)
    next(stream)
    first = time.time()
    workers = [process.pid for process in multiprocessing.active_children() if process.pid]
    first_cpu = time.process_time() + sum(map(_cpu, workers))
    for _ in islice(stream, batches):
        pass
    memory = [_memory(pid) for pid in (os.getpid(), *workers)]
    cpu = (first_cpu, opened_cpu - imported_cpu, first_cpu - opened_cpu)
    seconds = (first - spawned, opened - imported, first - opened)
    print(json.dumps([*cpu, *seconds, *memory[0], *max(memory[1:])]))


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> tuple[float, float]:
    """MiB resident, and of them those that no other process shares."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    amounts = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in told[1:]}
    return amounts["Rss"], amounts["Private_Clean"] + amounts["Private_Dirty"]


def started(folder: Path, start: float, batches: int) -> list[float]:
    """`measure` in a process of its own, begun as a trainer's is."""
    call = [sys.executable, "-m", "benchmarks.many_shards", "--measure", folder, start, batches, time.time()]
    found = subprocess.run(list(map(str, call)), check=True, capture_output=True, text=True).stdout
    return list(map(float, json.loads(found)))


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        folder, start, batches, spawned = sys.argv[2:]
        return measure(folder, float(start), int(batches), float(spawned))
    parser = described_parser(__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the tars are made, and stay"
    )
    parser.add_argument(
        "--shards", type=positive, nargs=2, default=[100, 10_000], metavar="N", help="sizes to compare"
    )
    parser.add_argument("--repeats", type=positive, default=5, metavar="N")
    parser.add_argument(
        "--batches", type=positive, default=300, metavar="N", help="read before memory is measured"
    )
    arguments = parser.parse_args()
    return run_cli(lambda: compare(arguments))


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
    found: dict[tuple[float, Path], list[list[float]]] = {}
    for _ in range(arguments.repeats):  # in turns, so that a slow moment is shared
        for start in (0.0, 0.5):
            for folder in sets:
                found.setdefault((start, folder), []).append(started(folder, start, arguments.batches))
    names = (
        "start of the process to first batch, CPU s",
        "of it, opening the source, CPU s",
        "of it, from there to the first batch, CPU s",
        "start of the process to first batch, s",
        "of it, opening the source, s",
        "of it, from there to the first batch, s",
        "trainer, MiB",
        "trainer, not shared, MiB",
        "worker, MiB",
        "worker, not shared, MiB",
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
