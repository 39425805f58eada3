"""Parquet tables: the same samples as from other sources, whatever holds the pictures, here and behind a URL."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sets import encoded, make_parquet

from benchmarks.loopback import weather, web_server
from common.data import tables
from common.data.blobs import forget_open_files
from common.data.config import DataConfig, SourceConfig
from common.data.images import CorruptImage, open_image
from common.data.open import open_source
from common.data.remote import ranges, retries
from common.data.sources import IndexedSource, RawImage
from common.data.stream import training_loader
from common.errors import FailedRead, UserError

COUNTS = [9, 4, 7]
TOTAL = sum(COUNTS)
PROMPT = ("500", "503", "reset", "short", "lie")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(ranges, "BLOCK", 500)
    yield tmp_path / "cache"
    tables.row_group.cache_clear()
    forget_open_files()


def config_of(root: Path, **options: object) -> SourceConfig:
    return SourceConfig(kind="parquet", path=make_parquet(root, COUNTS).path, **options)  # type: ignore[arg-type]


def opened(config: SourceConfig) -> IndexedSource:
    source = open_source(config)
    assert isinstance(source, IndexedSource)
    return source


def number(raw: RawImage) -> int:
    assert not isinstance(raw.data, CorruptImage)
    return int(open_image(raw.data).getpixel((0, 0))[0])  # type: ignore[index]


def test_every_row_once_an_epoch_a_window_of_row_groups_at_a_time(tmp_path: Path) -> None:
    source = opened(config_of(tmp_path / "set", window=2))
    assert [number(source.read(index)) for index in range(TOTAL)] == list(range(TOTAL))
    epochs = [
        [number(source.sample(position, 3)) for position in range(n * TOTAL, (n + 1) * TOTAL)] for n in (0, 1)
    ]
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in epochs) and epochs[0] != epochs[1]
    groups = [(image < 9, image // 4 if image < 9 else (image - 9) // 4 + 10) for image in epochs[0]]
    assert len(set(groups[:5])) <= 2  # of six groups of at most four rows
    again = opened(config_of(tmp_path / "set", window=2))
    assert number(again.sample(TOTAL + 7, 3)) == epochs[1][7]


def test_it_tells_what_it_has(tmp_path: Path) -> None:
    source = opened(config_of(tmp_path / "set"))
    assert source.account().samples == source.account().captions == TOTAL
    assert [(part.name, part.start, part.count) for part in source.parts()] == [
        ("train-00000.parquet", 0, 9), ("train-00001.parquet", 9, 4), ("train-00002.parquet", 13, 7),
    ]  # fmt: skip
    raw = source.read(10)
    assert (raw.key, raw.caption) == ("train-00001.parquet/1", "number 10")
    before = [part.fingerprint for part in source.parts()]
    make_parquet(tmp_path / "set", [9])  # the first one, written anew
    forget_open_files()
    after = [part.fingerprint for part in opened(SourceConfig(kind="parquet", path=source.name)).parts()]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True]


def test_pictures_in_columns_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "beside").mkdir()
    pictures = [encoded(image, size=64) for image in range(3)]
    for image, picture in enumerate(pictures):
        (tmp_path / "beside" / f"{image}.png").write_bytes(picture)
        (tmp_path / "data" / f"{image}.png").write_bytes(picture)
    letters = [base64.b64encode(picture).decode() for picture in pictures]
    columns = {
        "struct": [{"bytes": picture, "path": "x.png"} for picture in pictures],
        "binary": pictures,
        "large": pa.array(pictures, pa.large_binary()),
        "letters": letters,
        "uri": [f"data:image/png;base64,{each}" for each in letters],
        "absolute": [str(tmp_path / "beside" / f"{image}.png") for image in range(3)],
        "of_the_set": [f"beside/{image}.png" for image in range(3)],
        "of_the_table": [f"{image}.png" for image in range(3)],
        "lists": [[picture] for picture in pictures],
        "numbers": [1, 2, 3],
        "some": ["a", None, ""],
    }
    pq.write_table(pa.table(columns), tmp_path / "data" / "t.parquet")
    for column in list(columns)[:8]:
        source = opened(SourceConfig(kind="parquet", path=str(tmp_path), image_column=column))
        assert [number(source.read(index)) for index in range(3)] == [0, 1, 2], column
    with web_server(tmp_path) as site:
        remote = SourceConfig(kind="parquet", path=f"{site.url}/data/t.parquet", image_column="of_the_table")
        assert number(opened(remote).read(2)) == 2
    for column, holds in (("lists", "lists of binary"), ("numbers", "int64")):
        with pytest.raises(
            UserError, match=f"image_column: '{column}' holds {holds}, expected one picture a row"
        ):
            opened(SourceConfig(kind="parquet", path=str(tmp_path), image_column=column))
    with pytest.raises(UserError, match=r"t\.parquet: no column 'image' in this dataset: struct"):
        opened(SourceConfig(kind="parquet", path=str(tmp_path)))
    with pytest.raises(
        UserError, match="image_column: 'some' holds text that is no picture's path, such as 'a'"
    ):
        opened(SourceConfig(kind="parquet", path=str(tmp_path), image_column="some"))
    captioned = SourceConfig(kind="parquet", path=str(tmp_path), image_column="binary", caption_column="some")
    source = opened(captioned)
    assert [source.read(index).caption for index in range(3)] == ["a", None, None]
    assert (
        source.account().captions == 2
    )  # as the footers have it: an empty text is only seen when it is read


def test_damaged_tables_are_told_together_and_a_dead_row_group_is_a_failed_read(tmp_path: Path) -> None:
    config = config_of(tmp_path / "set")
    torn = tmp_path / "set" / "train-00001.parquet"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-20])
    (tmp_path / "set" / "train-00003.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="2 of 4 shards cannot be read, more than max_damaged_shards"):
        opened(config)
    source = opened(SourceConfig(kind="parquet", path=config.path, max_damaged_shards=0.5))
    assert len(source) == 16 and source.account().left_out == {"damaged tables": 2}
    first = tmp_path / "set" / "train-00000.parquet"
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    with pytest.raises(FailedRead, match="changed since it was opened"):
        source.read(0)


def test_a_dead_url_is_a_failed_download(tmp_path: Path) -> None:
    """And not `not an image`; the run goes on, and counts it."""
    with web_server(tmp_path) as site:
        urls = [f"{site.url}/gone.png", "http://127.0.0.1:9/gone.png"]
        pq.write_table(pa.table({"image": urls}), tmp_path / "t.parquet")
        source = opened(SourceConfig(kind="parquet", path=str(tmp_path / "t.parquet")))
        reasons = []
        for index in range(2):
            data = source.read(index).data
            assert isinstance(data, CorruptImage)
            reasons.append(data.reason)
    assert "/gone.png: no such file (404)" in reasons[0]
    assert "http://127.0.0.1:9/gone.png: download failed 3 times" in reasons[1]


@pytest.mark.slow
def test_batches_from_urls_are_those_of_the_disk_and_the_node_downloads_once(tmp_path: Path) -> None:
    local = config_of(tmp_path / "www" / "set", window=3)
    with web_server(tmp_path / "www") as site, weather(site.url, 0.1, seed=4, kinds=PROMPT) as bad:
        remote = SourceConfig(kind="parquet", path=f"{bad.url}/set/", window=3)
        batches = []
        for source in (local, remote):
            data = DataConfig(image_size=6, sources=(source,), workers=2, lanes=4)
            stream = iter(training_loader(data, seed=5, micro_batch=4))
            batches.append([next(stream) for _ in range(15)])  # three epochs
            del stream
        assert sum(bad.faults.values()) > 1
        # Each process asks once what a table is; of its bytes, only what a fault took is sent again.
        sent = {
            asked: n for asked, n in site.asked.items() if ".parquet" in asked[0] and asked[1] != "bytes=0-0"
        }
        assert len(sent) > 10 and sum(sent.values()) - len(sent) <= sum(bad.faults.values())
    for one, other in zip(*batches, strict=True):
        assert one["pixels"].equal(other["pixels"])
        assert (one["caption"], one["key"], one["skipped"]) == (
            other["caption"],
            other["key"],
            other["skipped"],
        )
