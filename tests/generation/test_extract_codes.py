"""Extraction: the codes that `VQRAE.encode` gives, once, by any number of processes, however often interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generator
import torch

import generation.codes
from common.data.evaluation import evaluation_loader
from common.data.images import to_float
from common.errors import UserError
from common.models.vqrae import VQRAE
from generation.codes import CodeFolder, open_shard, shard_path
from generation.extract_codes import extract, main


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    open_shard.cache_clear()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures; one more is torn, and sorts into the middle."""
    root = tiny_generator.write_shelf(tmp_path_factory.mktemp("shelf"))
    whole = (root / "images" / "004.png").read_bytes()
    (root / "images" / "004_torn.png").write_bytes(whole[: len(whole) // 2])
    return root


def recipe(shelf: Path, folder: Path, *overrides: str) -> Any:
    lenient = "data.max_corrupt_share=0.2"
    return tiny_generator.recipe(shelf, folder / "run", f"data.codes={folder / 'codes'}", lenient, *overrides)


def samples(folder: Path) -> list[tuple[str, str | None, bytes]]:
    codes = CodeFolder(folder / "codes" / "source_0")
    read = [codes.read(index) for index in range(len(codes))]
    return [(sample.key, sample.caption, sample.codes.tobytes()) for sample in read]


def test_codes_are_those_of_the_vqrae(shelf: Path, tmp_path: Path) -> None:
    extract(recipe(shelf, tmp_path), batch_size=2, shard_size=4)
    vqrae = VQRAE.from_pretrained(shelf / "vqrae").eval()
    expected = []
    for batch in evaluation_loader(shelf / "images", 16, 1, skip_corrupt=True):
        if batch["key"]:
            codes = vqrae.encode(to_float(batch["pixels"])).codes[0]
            expected.append((batch["key"][0], batch["caption"][0], codes.numpy().tobytes()))
    assert samples(tmp_path) == expected and len(expected) == 12
    skipped = [list(open_shard(shard_path(tmp_path / "codes" / "source_0", n)).skipped) for n in range(4)]
    assert [len(lines) for lines in skipped] == [0, 1, 0, 0] and "004_torn.png: " in skipped[1][0]


def test_a_stopped_extraction_goes_on(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(shelf, tmp_path)
    written = []
    original = generation.codes.write_shard

    def stop_at_the_third(path: Path, *rest: Any, **more: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        original(path, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generation.codes, "write_shard", stop_at_the_third)
        extract(config, 2, 4)
    folder = tmp_path / "codes" / "source_0"
    with pytest.raises(UserError, match="absent, one of 2 of 4 shards"):
        CodeFolder(folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard_*")}
    extract(config, 2, 4)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard_*")}
    assert len(after) == 4 and before.items() <= after.items()
    extract(recipe(shelf, tmp_path / "whole"), 2, 4)
    assert samples(tmp_path) == samples(tmp_path / "whole")


def test_two_processes_extract_like_one(pair: Any, shelf: Path, tmp_path: Path) -> None:
    extract(recipe(shelf, tmp_path / "one"), 2, 4)
    pair.run("extract_codes", shelf=str(shelf), folder=str(tmp_path / "two"), batch_size=2, shard_size=4)
    assert samples(tmp_path / "one") == samples(tmp_path / "two")


def test_other_codes_are_not_mixed_in(shelf: Path, tmp_path: Path) -> None:
    extract(recipe(shelf, tmp_path), 2, 4)
    other = f"model.tokenizer.source={shelf / 'other_vqrae'}"
    with pytest.raises(UserError, match=r"codes.json: vqrae_sha256: they were made by another VQRAE"):
        extract(recipe(shelf, tmp_path, other), 2, 4)
    with pytest.raises(UserError, match=r"codes.json: shard_size: the codes there have 4, the recipe 8"):
        extract(recipe(shelf, tmp_path), 2, 8)
    extract(recipe(shelf, tmp_path, "data.sources.0.weight=3.0"), 2, 4)  # training's affair


def test_too_many_torn_pictures_end_it(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of .* could not be read, more than .*max_corrupt_share allows"):
        extract(recipe(shelf, tmp_path, "data.max_corrupt_share=0.0001"), 2, 4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shard-size", "5", "--batch-size", "2"], "--shard-size 5: expected a multiple of --batch-size 2"),
        (["--batch-size", "0"], "expected a multiple"),
    ],
)
def test_a_shard_holds_whole_batches(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        main(arguments)


def test_a_recipe_without_a_folder_for_codes_is_refused(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.codes: expected a folder"):
        extract(tiny_generator.recipe(shelf, tmp_path), 2, 4)


def test_codes_fit_sixteen_bits(shelf: Path, tmp_path: Path) -> None:
    assert np.dtype("<u2").itemsize == 2 and torch.iinfo(torch.uint16).max == 2**16 - 1
    with pytest.raises(UserError, match="codebook_size: expected 1 to 65536"):
        tiny_generator.recipe(shelf, tmp_path, "model.tokenizer.codebook_size=65537")
