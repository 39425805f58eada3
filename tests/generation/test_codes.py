"""Shards of codes: what is written is read, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from common.errors import UserError
from generation.codes import MANIFEST, CodeFacts, CodeFolder, open_shard, shard_path, write_shard

FACTS = CodeFacts(
    vqrae_sha256="a" * 64,
    codebook_size=65536,
    grid=(2, 3),
    image_size=16,
    crop="center",
    precision="fp32",
    source={"kind": "folder", "path": "pictures"},
    images=5,
    shard_size=3,
)
CODES = np.random.default_rng(0).integers(0, 65536, (5, 2, 3))
CODES[0, 0, 0], CODES[4, 1, 2] = 0, 65535
CAPTIONS = ["red", None, "日本語", "torn \udc80 byte", "last"]
KEYS = [f"{index}.png" for index in range(5)]


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    open_shard.cache_clear()


def write(folder: Path, facts: CodeFacts = FACTS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(facts.to_json())
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        write_shard(
            shard_path(folder, number), facts, CODES[part], CAPTIONS[part], KEYS[part], ["x: torn"] * number
        )
    return folder


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    folder = CodeFolder(write(tmp_path))
    assert len(folder) == 5 and folder.facts == FACTS
    for index in (4, 0, 3, 2, 1):
        sample = folder.read(index)
        assert np.array_equal(sample.codes, CODES[index]) and sample.codes.dtype == np.int64
        assert (sample.caption, sample.key) == (CAPTIONS[index], KEYS[index])
    assert list(open_shard(shard_path(tmp_path, 1)).skipped) == ["x: torn"]


def test_a_shard_is_a_plain_file_of_packed_codes(tmp_path: Path) -> None:
    with safe_open(shard_path(write(tmp_path), 0), framework="numpy") as file:
        codes, facts = file.get_tensor("codes"), file.metadata()["facts"]
    assert codes.dtype == np.uint16 and np.array_equal(codes, CODES[:3]) and '"format": 1' in facts


def test_a_shard_without_pictures_is_read_too(tmp_path: Path) -> None:
    write(tmp_path)
    write_shard(shard_path(tmp_path, 0), FACTS, [], [], [], ["a: torn", "b: torn", "c: torn"])
    folder = CodeFolder(tmp_path)
    assert len(folder) == 2 and folder.read(0).key == "3.png"


@pytest.mark.parametrize("code", [-1, 40])
def test_codes_out_of_range_are_neither_written_nor_read(code: int, tmp_path: Path) -> None:
    few = dataclasses.replace(FACTS, codebook_size=40)
    codes = np.full((3, 2, 3), code)
    with pytest.raises(ValueError, match="codes: expected 0 to 39"):
        write_shard(shard_path(tmp_path, 0), few, codes, CAPTIONS[:3], KEYS[:3], [])
    assert not list(tmp_path.iterdir())


def test_codes_out_of_range_in_a_shard_are_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    for number in (0, 1):  # facts that promise fewer codes than there are
        path = shard_path(tmp_path, number)
        content = path.read_bytes()
        path.write_bytes(content.replace(b'codebook_size\\": 65536', b'codebook_size\\":    40'))
    (tmp_path / MANIFEST).write_text(dataclasses.replace(FACTS, codebook_size=40).to_json())
    with pytest.raises(
        UserError, match=r"shard_00000.safetensors: sample 0: codes: expected 0 to 39, found 0 to \d+"
    ):
        CodeFolder(tmp_path).read(0)


@pytest.mark.parametrize(
    ("field", "value"), [("vqrae_sha256", "b" * 64), ("grid", (3, 2)), ("crop", "random"), ("image_size", 32)]
)
def test_a_shard_of_other_facts_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).write_text(dataclasses.replace(FACTS, **{field: value}).to_json())
    with pytest.raises(UserError, match=f"shard_00000.safetensors: {field}: "):
        CodeFolder(tmp_path)


def test_missing_and_damaged_shards_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"codes.json: no extracted codes there"):
        CodeFolder(tmp_path)
    write(tmp_path)
    torn = shard_path(tmp_path, 1)
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"shard_00001.safetensors: no shard of codes, or a damaged one"):
        CodeFolder(tmp_path)
    torn.unlink()
    with pytest.raises(UserError, match=r"shard_00001.safetensors: absent, one of 1 of 2 shards"):
        CodeFolder(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=r"codes.json: no extracted codes, or of another version"):
        CodeFolder(tmp_path)
