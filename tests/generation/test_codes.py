"""Files of codes: what is written is read, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from common.data.config import SourceConfig
from common.errors import UserError
from generation.codes.facts import MANIFEST, CodeFacts, read_facts
from generation.codes.library import CodeSource
from generation.codes.record import CodeFiles, SourceRecord, described, read_record, record_path, write_record
from generation.codes.shard import (
    Captions,
    Shard,
    ShardOrigin,
    captions_path,
    open_captions,
    open_shard,
    shard_path,
    write_captions,
    write_shard,
)

FACTS = CodeFacts(
    vqrae_sha256="a" * 64, codebook_size=65536, grid=(2, 3), image_size=16, crop="center", precision="fp32"
)
CODES = np.random.default_rng(0).integers(0, 65536, (5, 2, 3))
CODES[0, 0, 0], CODES[4, 1, 2] = 0, 65535
CAPTIONS = ["red", None, "日本語", "torn \udc80 byte", "last"]
KEYS = [f"{index}.png" for index in range(5)]
PARTS = (slice(0, 3), slice(3, 5))
SOURCE = SourceConfig(kind="folder", path="pictures")


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    open_shard.cache_clear()
    open_captions.cache_clear()


def write(root: Path, facts: CodeFacts = FACTS, parts: tuple[slice, ...] = PARTS) -> Path:
    """A source of one shard for each of `parts`."""
    root.mkdir(exist_ok=True)
    (root / MANIFEST).write_text(facts.to_json())
    files = []
    for number, part in enumerate(parts):
        paths = shard_path(root, str(number)), captions_path(root, str(number))
        codes, captions = CODES[part], CAPTIONS[part]
        origin = ShardOrigin(f"part {number}", "f", 0, len(codes), "p")
        write_shard(paths[0], facts, origin, codes, KEYS[part], ["x: torn"] * number)
        write_captions(paths[1], str(number), captions)
        sizes = paths[0].stat().st_size, paths[1].stat().st_size
        counts = len(codes), sum(map(bool, captions)), number
        files.append(
            CodeFiles(origin.name, "f", 0, len(codes) + number, str(number), str(number), sizes, *counts)
        )
    write_record(root, SourceRecord(described(SOURCE), tuple(files)))
    return root


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    source = CodeSource.of(write(tmp_path), SOURCE)
    assert len(source) == 5 and source.facts == FACTS
    for index in (4, 0, 3, 2, 1):
        sample = source.read(index)
        assert np.array_equal(sample.codes, CODES[index]) and sample.codes.dtype == np.int64
        assert (sample.caption, sample.key) == (CAPTIONS[index], KEYS[index])
    assert list(Shard(shard_path(tmp_path, "1")).skipped) == ["x: torn"]
    assert Captions(captions_path(tmp_path, "0")).captioned == 2


def test_a_shard_is_a_plain_file_of_packed_codes(tmp_path: Path) -> None:
    with safe_open(shard_path(write(tmp_path), "0"), framework="numpy") as file:
        codes, header = file.get_tensor("codes"), file.metadata()["header"]
    assert codes.dtype == np.uint16 and np.array_equal(codes, CODES[:3]) and '"format": 2' in header


def test_equal_shards_are_equal_to_the_byte(tmp_path: Path) -> None:
    """Two processes may finish the same one."""
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    for path in first.rglob("*.safetensors"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_a_sample_costs_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shard of ten thousand, only what a sample needs is copied: no whole array, the ends of strings included."""
    real, copied = safe_open, []

    class Slice:
        def __init__(self, name: str, rows: Any) -> None:
            self.name, self.rows = name, rows

        def get_shape(self) -> list[int]:
            return self.rows.get_shape()

        def __getitem__(self, index: Any) -> Any:
            copied.append(self.rows[index].nbytes)
            return self.rows[index]

    class File:
        def __init__(self, *inputs: Any, **options: Any) -> None:
            self.file = real(*inputs, **options)

        def metadata(self) -> Any:
            return self.file.metadata()

        def get_slice(self, name: str) -> Any:
            return Slice(name, self.file.get_slice(name))

        def get_tensor(self, name: str) -> Any:
            copied.append(self.file.get_tensor(name).nbytes)
            return self.file.get_tensor(name)

    root, many = write(tmp_path), 10_000
    path = shard_path(root, "0")
    codes = np.zeros((many, 2, 3), np.int64)
    write_shard(path, FACTS, ShardOrigin("", "", 0, many, ""), codes, [f"{n}" for n in range(many)], [])
    monkeypatch.setattr("generation.codes.shard.safe_open", File)
    shard = Shard(path)
    assert shard.codes(7, 8).shape == (1, 2, 3) and shard.keys[9_999] == "9999"
    assert 12 <= sum(copied) < 100


@pytest.mark.parametrize("code", [-1, 40])
def test_codes_out_of_range_are_neither_written_nor_read(code: int, tmp_path: Path) -> None:
    few = dataclasses.replace(FACTS, codebook_size=40)
    with pytest.raises(ValueError, match="codes: expected 0 to 39"):
        write_shard(
            tmp_path / "0", few, ShardOrigin("", "", 0, 3, ""), np.full((3, 2, 3), code), KEYS[:3], []
        )
    assert not list(tmp_path.iterdir())


def test_codes_out_of_range_in_a_shard_are_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    for path in (tmp_path / "shards").iterdir():  # facts that promise fewer codes than there are
        path.write_bytes(path.read_bytes().replace(b'codebook_size\\": 65536', b'codebook_size\\":    40'))
    (tmp_path / MANIFEST).write_text(dataclasses.replace(FACTS, codebook_size=40).to_json())
    with pytest.raises(UserError, match=r"0.safetensors: sample 0: codes: expected 0 to 39, found 0 to \d+"):
        CodeSource.of(tmp_path, SOURCE).read(0)


@pytest.mark.parametrize(
    ("field", "value"), [("vqrae_sha256", "b" * 64), ("grid", (3, 2)), ("crop", "random"), ("image_size", 32)]
)
def test_a_shard_of_other_facts_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).write_text(dataclasses.replace(FACTS, **{field: value}).to_json())
    with pytest.raises(UserError, match=f"0.safetensors: {field}: "):
        CodeSource.of(tmp_path, SOURCE).read(0)


def test_missing_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"codes.json: no extracted codes there"):
        read_facts(tmp_path)
    write(tmp_path)
    torn = shard_path(tmp_path, "1")
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"shards/1.safetensors: absent or cut short, one of 1 such files"):
        CodeSource.of(tmp_path, SOURCE)
    torn.write_bytes(b"\xff" * len(whole))
    with pytest.raises(UserError, match=r"shards/1.safetensors: no shard of codes, or a damaged one"):
        CodeSource.of(tmp_path, SOURCE).read(4)
    captions_path(tmp_path, "0").unlink()
    with pytest.raises(UserError, match=r"captions/0.safetensors: absent or cut short, one of 1 such files"):
        CodeSource.of(tmp_path, SOURCE)
    record_path(tmp_path, described(SOURCE)).write_text("{}")
    with pytest.raises(UserError, match=r"pictures.*json: no record of extracted codes, or a damaged one"):
        CodeSource.of(tmp_path, SOURCE)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=r"codes.json: no extracted codes, or of another version"):
        read_facts(tmp_path)


def test_codes_of_the_former_layout_are_refused(tmp_path: Path) -> None:
    (tmp_path / "source_0").mkdir()
    (tmp_path / "source_0" / MANIFEST).write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"source_0/codes.json: codes of a former version.*extract_codes.py"):
        read_facts(tmp_path)


def test_a_source_without_codes_names_those_that_there_are(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(
        UserError,
        match=r"no codes of other, which data.sources names, only of: pictures; run generation/extract",
    ):
        CodeSource.of(tmp_path, SourceConfig(kind="folder", path="other"))
    # What does not change its samples does not matter.
    again = SourceConfig(kind="folder", path="./pictures/", weight=3.0, window=2)
    assert len(CodeSource.of(tmp_path, again)) == 5
    for field, value in (("captions", "x.jsonl"), ("caption_column", "text")):
        with pytest.raises(UserError, match="no codes of"):
            CodeSource.of(tmp_path, dataclasses.replace(SOURCE, **{field: value}))


def test_an_epoch_reads_a_few_shards_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, parts=PARTS[:1] * 12)
    source = CodeSource.of(root, dataclasses.replace(SOURCE, window=2))
    opened: list[Path] = []
    monkeypatch.setattr(
        "generation.codes.library.open_shard", lambda path: opened.append(path) or open_shard(path)
    )
    epochs = []
    for epoch in range(2):
        opened.clear()
        samples = [source.sample(36 * epoch + offset, 0) for offset in range(36)]
        windows = [set(opened[at : at + 6]) for at in range(0, 36, 6)]
        assert [len(window) for window in windows] == [2] * 6 and len(set.union(*windows)) == 12
        assert sorted(sample.key for sample in samples) == sorted(KEYS[:3] * 12)
        epochs.append(windows)
    assert epochs[0] != epochs[1]


def test_damaged_ends_of_captions_are_one_line(tmp_path: Path) -> None:
    """Their length is right, and so is the file's."""
    root = write(tmp_path / "codes")
    path = captions_path(root, "0")
    content = path.read_bytes()
    ends = np.array([0, 3, 3], "<i8").tobytes()
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, np.array([0, 900, 3], "<i8").tobytes()))
    with pytest.raises(UserError, match=r"captions: damaged: .*out of bounds") as error:
        open_captions(path).texts[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("shard", "captions"), [("0", ["red", "red"]), ("1", ["red", "red", "red"])])
def test_captions_of_another_shard_are_one_line(
    shard: str, captions: list[str | None], tmp_path: Path
) -> None:
    """Of as many bytes, so that nothing but its own header tells."""
    root = write(tmp_path / "codes")
    write_captions(captions_path(root, "0"), shard, captions)
    record = read_record(record_path(root, described(SOURCE)))
    sizes = (shard_path(root, "0").stat().st_size, captions_path(root, "0").stat().st_size)
    files = (dataclasses.replace(record.files[0], sizes=sizes), *record.files[1:])
    write_record(root, dataclasses.replace(record, files=files))
    with pytest.raises(UserError, match=r"0\.safetensors: \d captions of shard \d, where 3 of 0 are wanted"):
        CodeSource.of(root, SOURCE).read(0)
