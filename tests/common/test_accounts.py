"""What sources were given is told at the start and in dry runs; captions that are wanted and not there are refused."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
from image_sets import add_member, encoded, make_folder, make_parquet, make_shards

from common.config import ConfigError, validate
from common.data.accounts import account_line, accounts, check_captions, numbered, planned_accounts
from common.data.config import SourceConfig
from common.data.open import open_source
from common.data.sources import Account
from common.errors import UserError
from generation import beginnings as generation
from generation import dry_run as generation_plan
from tokenizer import beginnings as tokenizer
from tokenizer import dry_run as tokenizer_plan


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("accounts"))


def without_captions(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(number, 16))
    return folder


def folder(path: Path, **options: Any) -> SourceConfig:
    return SourceConfig(kind="folder", path=str(path), **options)


@pytest.mark.parametrize(
    ("account", "captions", "line"),
    [
        (
            Account(1203, 1200, {"other files": 9000}),
            True,
            "SET: 1,203 pictures, 1,200 with a caption; left out: 9,000",
        ),
        (Account(1203, 0), False, "SET: 1,203 pictures"),
        (
            Account(1, 0, {".cr2 files": 38, "nothing": 0}),
            False,
            "warning: SET: 1 pictures; left out: 38 .cr2 files",
        ),
        (
            Account(None, None, {"rows": 3}),
            True,
            "SET: pictures, read forward, how many have a caption is not known before they are read",
        ),
    ],
)
def test_an_account_is_a_line(account: Account, captions: bool, line: str) -> None:
    said = account_line("SET", account, captions)
    assert said.startswith(line) and "nothing" not in said


def test_captions_that_are_wanted_and_not_there_are_refused(tmp_path: Path) -> None:
    bare = without_captions(tmp_path / "bare")
    with pytest.raises(
        UserError, match=r"^data.sources.1: .*bare: none of its 3 pictures has a caption; say where"
    ):
        accounts(numbered("data.sources", [make_folder(tmp_path / "good", 4), folder(bare)]), captions=True)
    assert accounts({"data.sources.0": folder(bare)}, captions=False) == [f"{bare}: 3 pictures"]
    meant = folder(bare, unconditional=True)
    assert accounts({"data.sources.0": meant}, captions=True) == [f"{bare}: 3 pictures"]
    (bare / "captions.jsonl").write_text('{"file_name": "0.png", "caption": "half \\ud83d"}\n')
    with pytest.raises(UserError, match="has a caption; 1 captions that are no valid Unicode"):
        accounts({"data.sources.0": folder(bare)}, captions=True)


def test_a_stream_without_a_column_of_captions_is_refused(tmp_path: Path) -> None:
    config = make_parquet(tmp_path / "set", [3], streaming=True)
    assert accounts({"data.sources.0": config}, captions=True)[0].endswith(
        "how many have a caption is not known before they are read"
    )
    other = SourceConfig(kind="hub", path=config.path, streaming=True, unconditional=True)
    assert open_source(other).account().captions == 0
    assert open_source(other).sample(0, 0).caption is None
    with pytest.raises(UserError, match="set: none of its 3 pictures has a caption"):
        check_captions(replace(other, unconditional=False), open_source(other).account())


def test_unconditional_says_that_captions_are_not_read(tmp_path: Path) -> None:
    config = make_folder(tmp_path, 4)
    assert open_source(config).sample(0, 0).caption or open_source(config).sample(1, 0).caption
    source = open_source(folder(tmp_path, unconditional=True))
    assert {source.sample(position, 0).caption for position in range(4)} == {None}
    for named in ({"captions": ".txt"}, {"caption_column": "text"}):
        with pytest.raises(ConfigError, match="unconditional: captions are not read then, and caption"):
            validate(SourceConfig, {"kind": "folder", "path": "x", "unconditional": True, **named}, "recipe")


def test_where_captions_are_not_wanted_nothing_about_them_matters(tmp_path: Path) -> None:
    """A tokenizer's pictures may have texts beside them that are no captions, or damaged ones; but what a recipe names
    has to be there."""
    bare = without_captions(tmp_path / "bare")
    (bare / "captions.jsonl").write_text("no JSON")
    (bare / "0.txt").write_text("also here")
    assert open_source(folder(bare), captions=False).sample(0, 0).caption is None
    with pytest.raises(UserError, match="no valid JSON"):
        open_source(folder(bare, captions=str(bare / "captions.jsonl")), captions=False)


def test_where_it_is_not_clear_which_text_is_the_caption_one_must_be_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_member(tar, "0.png", encoded(0))
        add_member(tar, "0.txt", b"alt text")
        add_member(tar, "0.caption", b"a red square")
    shards = SourceConfig(kind="shards", path=str(tmp_path / "a.tar"))
    with pytest.raises(
        UserError, match=r"^data.sources.0: .*a.tar: caption_column: 1 samples have several texts"
    ):
        accounts({"data.sources.0": shards}, captions=True)
    for sound in (replace(shards, caption_column="caption"), replace(shards, unconditional=True)):
        assert accounts({"data.sources.0": sound}, captions=True)
    assert accounts({"data.sources.0": shards}, captions=False) == [f"{shards.path}: 1 pictures"]
    assert open_source(replace(shards, unconditional=True)).sample(0, 0).caption is None
    assert open_source(shards, captions=False).sample(0, 0).caption is None


def test_a_start_tells_what_it_was_given(shelf: Path, tmp_path: Path) -> None:
    tiny_images = tmp_path / "images"
    tiny.write_pictures(tiny_images, 2)
    (tiny_images / "a.cr2").write_bytes(b"")
    lines = tokenizer.begin(tmp_path, tiny.tokenizer_recipe(tiny_images, tmp_path / "run"))
    assert f"{tiny_images}: 2 pictures; left out: 1 .cr2 files, a kind of picture that is not read" in lines
    lines = generation.begin(tmp_path, tiny_generator.recipe(shelf, tmp_path / "run"))
    assert (
        lines.count(f"{shelf / 'images'}: 12 pictures, 12 with a caption") == 2
    )  # to learn from, and held out
    for field in ("data.sources.0.path", "evaluation.source.path"):
        with pytest.raises(
            UserError, match=r"^(data.sources.0|evaluation.source): .*: none of its 2 pictures has"
        ):
            generation.begin(
                tmp_path, tiny_generator.recipe(shelf, tmp_path / "run", f"{field}={tiny_images}")
            )


def test_dry_runs_tell_it_too_and_do_without_data(shelf: Path, tmp_path: Path) -> None:
    page = generation_plan.plan(tiny_generator.recipe(shelf, tmp_path / "run"), 1)
    assert f"source           {shelf / 'images'}: 12 pictures, 12 with a caption\n" in page
    bare = without_captions(tmp_path / "bare")
    with pytest.raises(UserError, match="none of its 3 pictures has a caption"):
        generation_plan.plan(tiny_generator.recipe(shelf, tmp_path, f"data.sources.0.path={bare}"), 1)
    assert f"source           {bare}: 3 pictures\n" in tokenizer_plan.plan(
        tiny.tokenizer_recipe(bare, tmp_path), 1
    )
    away = [
        folder(tmp_path / "gone"),
        SourceConfig(kind="shards", path=str(tmp_path / "gone" / "{000..127}.tar")),
        SourceConfig(kind="hub", path="owner/name"),
        SourceConfig(kind="shards", path="https://example.org/{0..9}.tar"),
    ]
    assert [line.rpartition(": ")[2] for line in planned_accounts(numbered("data.sources", away), True)] == [
        "not here"
    ] * 4


def test_a_dry_run_indexes_no_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    shards = make_shards(tmp_path / "set", [1] * 9)
    (line,) = planned_accounts({"data.sources.0": shards}, captions=True)
    assert line == f"{shards.path}: 9 shards without an index; vqrae index makes one, and counts"
    assert not list(tmp_path.rglob(".vqrae-index")) and not (tmp_path / "cache").exists()
    open_source(shards)
    (line,) = planned_accounts({"data.sources.0": shards}, captions=True)
    assert line == f"{shards.path}: 9 pictures, 9 with a caption"


def test_a_name_that_is_no_utf8_can_be_told(tmp_path: Path) -> None:
    """As folders have them that were unzipped on another system."""
    bare = without_captions(tmp_path / "bare")
    (bare / "caf\udce9.png").write_bytes(encoded(7, 16))
    (bare / "captions.jsonl").write_text(
        json.dumps({"file_name": "caf\udce9.png", "caption": "seven"}) + "\n"
    )
    source = open_source(folder(bare))
    assert source.account().captions == 1
    assert source.parts()[0].count == 4  # type: ignore[attr-defined]
