"""Streams without waste: of several processes and their workers, each lane has one reader."""

from __future__ import annotations

import logging
import os
from itertools import islice
from pathlib import Path

import pytest
from image_sets import make_parquet

from common.data import hub_stream
from common.data.config import DataConfig
from common.data.stream import ImageStream, TrainingLoader, training_loader
from common.errors import UserError

LANES = 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def data_of(root: Path, lanes: int = LANES, **options: int) -> DataConfig:
    """A stream of 24 row groups in 4 files."""
    source = make_parquet(root / "set", [24] * 4, streaming=True, stream_block=2)
    return DataConfig(image_size=6, sources=(source,), lanes=lanes, **options)  # type: ignore[arg-type]


def test_each_lane_is_of_one_worker_whatever_their_number(tmp_path: Path) -> None:
    stream = ImageStream(data_of(tmp_path), 0)
    assert stream.sources[0].lanes == LANES
    for world, workers, micro_batch in ((1, 5, 4), (2, 7, 3), (3, 4, 5), (4, 4, 1), (8, 3, 7), (24, 12, 2)):
        readers: dict[int, set[tuple[int, int]]] = {}
        met: list[int] = []
        stream.config = data_of(tmp_path, workers=workers)
        for rank in range(world):
            plan = TrainingLoader(stream, rank, world, micro_batch, start=33)._plan()
            for number, positions in enumerate(islice(plan, 40 * workers)):
                for position in positions:
                    readers.setdefault(position % LANES, set()).add((rank, number % workers))
                    met.append(position)
        assert sorted(met) == list(range(33, 33 + 40 * world * micro_batch))
        assert len(readers) == LANES and all(len(each) == 1 for each in readers.values()), (world, workers)


@pytest.mark.slow
def test_no_worker_reads_a_shard_that_another_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "read.txt"
    read = hub_stream._ShardReader.read

    def noting(self: hub_stream._ShardReader, cursor: hub_stream._Cursor, shard: int, start: int) -> list:  # type: ignore[type-arg]
        with log.open("a") as file:
            file.write(f"{os.getpid()} {shard}\n")
        return read(self, cursor, shard, start)

    monkeypatch.setattr(hub_stream._ShardReader, "read", noting)
    for _ in islice(training_loader(data_of(tmp_path, workers=5), 0, micro_batch=8), 12):
        pass
    readers: dict[str, set[str]] = {}
    for line in log.read_text().splitlines():
        process, shard = line.split()
        readers.setdefault(shard, set()).add(process)
    assert len(readers) >= LANES - 5 and all(len(each) == 1 for each in readers.values())
    assert len(set.union(*readers.values())) == 5


def test_what_would_be_downloaded_several_times_is_refused_with_the_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(tmp_path, workers=2)
    with pytest.raises(UserError, match="24 lanes for 36 processes: everything would be downloaded 3 times"):
        training_loader(data, 0, 0, 36)
    with caplog.at_level(logging.WARNING):
        training_loader(data, 0, 0, 24)
    assert (
        "24 lanes for 24 processes: 1 of the 2 workers of each have nothing to read; data.lanes: 48"
        in caplog.text
    )
