"""Extraction: the codes that `VQRAE.encode` gives, once, by any processes, and again where something has changed."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_sets
import numpy as np
import pytest
import tiny
import tiny_generator
import torch

from common.config import dump_config
from common.data.config import SourceConfig
from common.data.evaluation import evaluation_loader
from common.data.images import to_float
from common.errors import UserError
from common.models.vqrae import VQRAE
from generation.code_encoder import CodeEncoder
from generation.codes import worker
from generation.codes.jobs import SourceJobs
from generation.codes.leases import Leases
from generation.codes.library import CodeSource
from generation.codes.record import records, unused_files
from generation.codes.shard import Shard, open_captions, open_shard
from generation.extract_codes import extract, main


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    open_shard.cache_clear()
    open_captions.cache_clear()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures; one more is torn, and sorts into the middle."""
    root = tiny_generator.write_shelf(tmp_path_factory.mktemp("shelf"))
    whole = (root / "images" / "004.png").read_bytes()
    (root / "images" / "004_torn.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures were encoded, batch by batch."""
    batches: list[int] = []
    original = CodeEncoder.__call__

    def counted(self: CodeEncoder, pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(CodeEncoder, "__call__", counted)
    yield batches


def recipe(shelf: Path, folder: Path, *overrides: str) -> Any:
    lenient = "data.max_corrupt_share=0.2"
    return tiny_generator.recipe(shelf, folder / "run", f"data.codes={folder / 'codes'}", lenient, *overrides)


def of(*sources: dict[str, Any]) -> str:
    return f"data.sources={json.dumps(sources)}"


def plain(folder: Path) -> dict[str, Any]:
    """A folder without captions."""
    return {"kind": "folder", "path": str(folder), "unconditional": True}


def samples(config: Any, number: int = 0) -> list[tuple[str, str | None, bytes]]:
    codes = CodeSource.of(Path(config.data.codes), config.data.sources[number])
    read = [codes.read(index) for index in range(len(codes))]
    return [(sample.key, sample.caption, sample.codes.tobytes()) for sample in read]


def expected(shelf: Path, folder: Path) -> list[tuple[str, str | None, bytes]]:
    """By the VQRAE itself, one picture at a time."""
    vqrae = VQRAE.from_pretrained(shelf / "vqrae").eval()
    found = []
    for batch in evaluation_loader(SourceConfig(kind="folder", path=str(folder)), 16, 1, skip_corrupt=True):
        if batch["key"]:
            codes = vqrae.encode(to_float(batch["pixels"])).codes[0]
            found.append((batch["key"][0], batch["caption"][0], codes.numpy().tobytes()))
    return found


def files(folder: Path, kind: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "codes" / kind).iterdir()}


def test_codes_are_those_of_the_vqrae(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(shelf, tmp_path)
    extract(config, batch_size=2, shard_size=4)
    assert samples(config) == expected(shelf, shelf / "images") and len(samples(config)) == 12
    shards = sorted(Shard(path).origin.first for path in (tmp_path / "codes" / "shards").iterdir())
    assert shards == [0, 4, 8, 12]
    said = capsys.readouterr().out
    assert f"{shelf / 'images'}: 12 pictures, 12 with a caption; left out: " in said
    assert "1 unreadable; shards: 4; e.g. " in said
    assert "004_torn.png: " in said and not list((tmp_path / "codes" / "leases").iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_extraction_goes_on(
    workers: int, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    config = recipe(shelf, tmp_path, f"data.workers={workers}")
    written: list[Path] = []
    original = worker.write_shard

    def stop_at_the_third(path: Path, *rest: Any, **more: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        original(path, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(worker, "write_shard", stop_at_the_third)
        extract(config, 2, 4)
    with pytest.raises(UserError, match="no codes of "):
        samples(config)
    before, half = files(tmp_path, "shards"), sum(encoded)
    assert len(before) == 2 and half < 12
    extract(config, 2, 4)
    after = files(tmp_path, "shards")
    assert len(after) == 4 and before.items() <= after.items()
    whole = recipe(shelf, tmp_path / "whole")
    extract(whole, 2, 4)
    assert samples(config) == samples(whole)


def test_no_process_waits_for_another(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four that were started one is left, and does it all; nor does it need the one that died at its work."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    config = recipe(shelf, tmp_path)
    dead = Leases(tmp_path / "codes" / "leases")
    jobs = SourceJobs(tmp_path / "codes", config.data.sources[0], 4).jobs
    assert dead.take(jobs[1].shard)
    for path in (tmp_path / "codes" / "leases").glob("*.0"):
        os.utime(path, (1, 1))
    extract(config, 2, 4)
    assert samples(config) == expected(shelf, shelf / "images")


def test_two_processes_extract_like_one(
    pair: Any, shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = recipe(shelf, tmp_path / "one")
    extract(config, 2, 1)
    pair.run("extract_codes", shelf=str(shelf), folder=str(tmp_path / "two"), batch_size=2, shard_size=1)
    assert samples(config) == samples(recipe(shelf, tmp_path / "two"))
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.safetensors")} for n in ("one", "two")
    )
    assert one == two and len(one) == 26


def test_a_recipe_reads_the_codes_of_its_own_sources(shelf: Path, tmp_path: Path, encoded: list[int]) -> None:
    """Wherever they stand in it; what comes, goes or changes its place costs nothing else."""
    cats, dogs, owls = (
        plain(tiny.write_pictures(tmp_path / name, count))
        for name, count in (("cats", 3), ("dogs", 4), ("owls", 5))
    )
    both = recipe(shelf, tmp_path, of(cats, dogs))
    extract(both, 2, 4)
    alone = recipe(shelf, tmp_path, of(dogs))
    assert [key for key, *_ in samples(alone)] == [f"{n:03d}.png" for n in range(4)]
    assert samples(alone) == samples(both, 1) != samples(both, 0)
    encoded.clear()
    extract(recipe(shelf, tmp_path, of(dogs, cats)), 2, 4)
    assert not encoded
    extract(recipe(shelf, tmp_path, of(owls, dogs)), 2, 4)
    assert sum(encoded) == 5
    with pytest.raises(
        UserError, match=r"no codes of .*images, .* only of: .*cats .unconditional., .*dogs.*, .*owls.*; run"
    ):
        samples(recipe(shelf, tmp_path))


def test_a_tar_that_comes_or_goes_is_the_only_one_that_counts(
    shelf: Path, tmp_path: Path, encoded: list[int]
) -> None:
    image_sets.make_shards(tmp_path / "web", [3, 4, 5])
    source = {"kind": "shards", "path": str(tmp_path / "web")}
    config = recipe(shelf, tmp_path, of(source))
    extract(config, 2, 100)
    before, shards = samples(config), files(tmp_path, "shards")
    assert len(shards) == 3 and sum(encoded) == 12  # one for each tar
    encoded.clear()
    with tarfile.open(tmp_path / "web" / "train-0005.tar", "w") as tar:
        image_sets.add_member(tar, "new.png", image_sets.encoded(200))
    extract(config, 2, 100)
    assert sum(encoded) == 1 and shards.items() <= files(tmp_path, "shards").items()
    assert len(samples(config)) == 13 and set(before) < set(samples(config))
    (tmp_path / "web" / "train-001.tar").unlink()
    encoded.clear()
    extract(config, 2, 100)
    assert not encoded and len(samples(config)) == 9
    assert len(unused_files(tmp_path / "codes")) == 2  # its codes and its captions


def test_pictures_that_were_moved_are_not_encoded_again(
    shelf: Path, tmp_path: Path, encoded: list[int]
) -> None:
    image_sets.make_shards(tmp_path / "web", [3, 4])
    config = recipe(shelf, tmp_path, of({"kind": "shards", "path": str(tmp_path / "web")}))
    extract(config, 2, 100)
    (tmp_path / "web").rename(tmp_path / "elsewhere")
    moved = recipe(shelf, tmp_path, of({"kind": "shards", "path": str(tmp_path / "elsewhere")}))
    encoded.clear()
    extract(moved, 2, 100)
    assert not encoded and samples(moved) == samples(config)


def test_tars_of_one_name_size_and_time_are_told_apart(shelf: Path, tmp_path: Path) -> None:
    configs = []
    for name, first in (("cats", 10), ("dogs", 150)):
        path = tmp_path / name / "00000.tar"
        path.parent.mkdir()
        with tarfile.open(path, "w") as tar:
            for number in range(2):
                image_sets.add_member(tar, f"{number}.png", image_sets.encoded(first + 40 * number))
        os.utime(path, (1, 1))
        configs.append(
            recipe(shelf, tmp_path, of({"kind": "shards", "path": str(path.parent), "unconditional": True}))
        )
    assert (tmp_path / "cats" / "00000.tar").stat().st_size == path.stat().st_size
    for config in configs:
        extract(config, 2, 100)
    assert len(files(tmp_path, "shards")) == 2 and samples(configs[0]) != samples(configs[1])


def test_pictures_that_were_changed_are_encoded_again(
    shelf: Path, tmp_path: Path, encoded: list[int]
) -> None:
    pictures = tiny.write_pictures(tmp_path / "pictures", 4)
    config = recipe(shelf, tmp_path, of(plain(pictures)))
    extract(config, 2, 4)
    (pictures / "001.png").write_bytes(image_sets.encoded(200, 40))
    encoded.clear()
    extract(config, 2, 4)
    assert encoded and samples(config) == expected(shelf, pictures)


def test_captions_are_mended_without_encoding(shelf: Path, tmp_path: Path, encoded: list[int]) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(shelf / "images", pictures)
    config = recipe(shelf, tmp_path, of({"kind": "folder", "path": str(pictures)}))
    extract(config, 2, 4)
    before = samples(config)
    encoded.clear()
    extract(config, 2, 4)
    assert not encoded
    lines = (pictures / "captions.jsonl").read_text().replace("three small bowls", "four bowls")
    (pictures / "captions.jsonl").write_text(lines)
    extract(config, 2, 4)
    after = samples(config)
    assert not encoded and [row[::2] for row in before] == [row[::2] for row in after]
    assert {caption for _, caption, _ in after} == {*tiny_generator.CAPTIONS[:3], "four bowls"}


def test_captions_alone_of_tars_that_were_written_anew(
    shelf: Path, tmp_path: Path, encoded: list[int]
) -> None:
    image_sets.make_shards(tmp_path / "web", [3, 4])
    config = recipe(shelf, tmp_path, of({"kind": "shards", "path": str(tmp_path / "web")}))
    extract(config, 2, 100)
    before = samples(config)
    for path in (tmp_path / "web").glob("*.tar"):
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                image_sets.add_member(tar, name, content.replace(b"number", b"the picture number"))
    encoded.clear()
    extract(config, 2, 100, captions_only=True)
    after = samples(config)
    assert [row[::2] for row in before] == [row[::2] for row in after]
    assert [row[1] for row in after] == [f"the picture {row[1]}" for row in before]
    extract(config, 2, 100)  # it is remembered
    assert not encoded and samples(config) == after
    image_sets.make_shards(tmp_path / "web", [4, 3])  # other pictures under the names
    with pytest.raises(
        UserError, match=r"train-00[01].tar: .* no codes of these pictures, and --captions-only"
    ):
        extract(config, 2, 100, captions_only=True)


def test_other_codes_are_not_mixed_in(shelf: Path, tmp_path: Path, encoded: list[int]) -> None:
    extract(recipe(shelf, tmp_path), 2, 4)
    other = f"model.tokenizer.source={shelf / 'other_vqrae'}"
    with pytest.raises(UserError, match=r"codes.json: vqrae_sha256: they were made by another VQRAE"):
        extract(recipe(shelf, tmp_path, other), 2, 4)
    encoded.clear()
    extract(recipe(shelf, tmp_path, "data.sources.0.weight=3.0"), 2, 4)  # training's affair
    assert not encoded


def test_too_many_torn_pictures_end_it(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of .* could not be read, more than .*max_corrupt_share allows"):
        extract(recipe(shelf, tmp_path, "data.max_corrupt_share=0.0001"), 2, 4)
    assert not records(tmp_path / "codes")


def test_the_command(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the demo calls it: a recipe's file, and fields of it to change."""
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_config(tiny_generator.recipe(shelf, tmp_path / "run")))
    overrides = (f"data.codes={tmp_path / 'codes'}", "data.max_corrupt_share=0.2")
    main(["--config", str(file), *overrides, "--batch-size", "5", "--local_rank", "0"])
    assert "12 pictures, 12 with a caption; left out: " in capsys.readouterr().out
    assert len(samples(recipe(shelf, tmp_path))) == 12


@pytest.mark.parametrize("option", ["--shard-size", "--batch-size", "--stale-after"])
def test_sizes_are_numbers(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert f"{option}: expected 1 or more, found 0" in capsys.readouterr().err


def test_a_recipe_without_a_folder_for_codes_is_refused(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.codes: expected a folder"):
        extract(tiny_generator.recipe(shelf, tmp_path), 2, 4)


def test_codes_fit_sixteen_bits(shelf: Path, tmp_path: Path) -> None:
    assert np.dtype("<u2").itemsize == 2 and torch.iinfo(torch.uint16).max == 2**16 - 1
    with pytest.raises(UserError, match="codebook_size: expected 1 to 65536"):
        tiny_generator.recipe(shelf, tmp_path, "model.tokenizer.codebook_size=65537")
