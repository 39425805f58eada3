"""Captions of folders: the places where others leave them, names made elsewhere, and what is counted or refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from image_sets import encoded

from common.data import folder_captions
from common.data.config import SourceConfig
from common.data.folder import FolderSource
from common.data.open import open_source
from common.errors import UserError

WORDS = ("red", "green", "blue", "yellow")
NAMES = [f"{number:04d}.png" for number in range(4)]
CAPTIONS = [f"a {word} square" for word in WORDS]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures."""
    write(tmp_path / "set", NAMES)
    return tmp_path / "set"


def write(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(number))


def lines(
    path: Path, names: list[str] = NAMES, field: str = "caption", captions: list[Any] = CAPTIONS
) -> None:
    records = [{"file_name": name, field: caption} for name, caption in zip(names, captions, strict=True)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def opened(root: Path, **options: Any) -> FolderSource:
    source = open_source(SourceConfig(kind="folder", path=str(root), **options))
    assert isinstance(source, FolderSource)
    return source


def captions(root: Path, **options: Any) -> list[str | None]:
    source = opened(root, **options)
    return [source.read(index).caption for index in range(len(source))]


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- the places ----------------------------------------------------------------------------------------------


def metadata_jsonl(root: Path) -> None:
    lines(root / "metadata.jsonl", field="text")


def metadata_csv(root: Path) -> None:
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("file_name", "text"), *zip(NAMES, CAPTIONS, strict=True)])


def metadata_parquet(root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"file_name": NAMES, "text": CAPTIONS}), root / "metadata.parquet")


def metadata_of_parts(root: Path) -> None:
    """One in each folder below, with names that start there."""
    for number, name in enumerate(NAMES):
        (root / f"part{number}").mkdir()
        (root / name).rename(root / f"part{number}" / name)
        lines(root / f"part{number}" / "metadata.jsonl", [name], "text", [CAPTIONS[number]])


def captions_jsonl(root: Path) -> None:
    lines(root / "captions.jsonl")


def captions_beside(root: Path) -> None:
    lines(root.parent / "captions.jsonl", [f"set/{name}" for name in NAMES])


def texts(root: Path) -> None:
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        (root / name).with_suffix(".txt").write_bytes(f"\ufeff{caption}\r\n".encode())


def kohya(root: Path) -> None:
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        (root / name).with_suffix(".caption").write_text(caption)


def backslashes(root: Path) -> None:
    lines(root / "captions.jsonl", [f"train\\{name}" for name in NAMES])
    (root / "train").mkdir()
    for name in NAMES:
        (root / name).rename(root / "train" / name)


def absolute(root: Path) -> None:
    lines(root / "captions.jsonl", [f"/mnt/old_disk/set/{name}" for name in NAMES])


def of_windows(root: Path) -> None:
    lines(root / "captions.jsonl", [f"C:\\old\\set\\{name}" for name in NAMES])


def with_the_folder_in_front(root: Path) -> None:
    lines(root / "captions.jsonl", [f"./set/{name}" for name in NAMES])


PLACES = [
    metadata_jsonl,
    metadata_csv,
    metadata_parquet,
    metadata_of_parts,
    captions_jsonl,
    captions_beside,
    texts,
    kohya,
    backslashes,
    absolute,
    of_windows,
    with_the_folder_in_front,
]


@pytest.mark.parametrize("place", PLACES)
def test_captions_are_found_where_others_leave_them(place: Any, root: Path) -> None:
    place(root)
    assert captions(root) == CAPTIONS
    account = opened(root).account()
    assert (account.samples, account.captions, account.left_out) == (4, 4, {})


def test_what_the_recipe_names_wins(root: Path) -> None:
    lines(root / "captions.jsonl")
    texts(root)
    lines(root / "metadata.jsonl", field="recaption", captions=["better"] * 4)
    said = refused(root)
    assert "several places" in said and "captions.jsonl, .txt" in said and "`captions` must name" in said
    assert captions(root, captions=".txt") == CAPTIONS
    assert captions(root, captions=str(root / "captions.jsonl")) == CAPTIONS
    assert captions(root, caption_column="recaption") == ["better"] * 4
    assert captions(root, unconditional=True) == [None] * 4
    assert "no caption file here has 'alt'" in refused(root, caption_column="alt")
    assert "no .caption file stands beside" in refused(root, captions=".caption")
    given = {"captions": str(root / "captions.jsonl"), "caption_column": "alt"}
    assert "captions.jsonl: caption_column: no 'alt' there, found file_name, caption" in refused(
        root, **given
    )


def test_of_several_fields_one_must_be_named(root: Path) -> None:
    records = [{"file_name": name, "text": "long", "caption": "short"} for name in NAMES]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert "captions may be caption or text: caption_column must name one" in refused(root)
    assert captions(root, caption_column="text") == ["long"] * 4


def test_texts_in_json_beside_the_pictures(root: Path) -> None:
    """img2dataset's: NaN stands in fields that nobody reads."""
    for number, name in enumerate(NAMES):
        text = f'{{"caption": "alt", "recaption": "{CAPTIONS[number]}", "similarity": NaN}}'
        (root / name).with_suffix(".json").write_text(text)
    assert captions(root) == [None] * 4  # no standard place
    assert captions(root, captions=".json", caption_column="recaption") == CAPTIONS
    assert captions(root, captions=".json") == ["alt"] * 4


# ---- what is counted -----------------------------------------------------------------------------------------


def test_what_is_no_caption_costs_one_picture_and_is_counted(root: Path) -> None:
    values: list[Any] = ["a red square \ud83d", 3, ["a blue square", "blue"], "  "]
    lines(root / "captions.jsonl", [*NAMES, "gone.png", NAMES[2]], captions=[*values, "lost", "more"])
    assert captions(root) == [None, None, "a blue square", None]
    account = opened(root).account()
    assert account.captions == 1
    assert {what.partition(" (captions.jsonl")[0]: count for what, count in account.left_out.items()} == {
        "captions that are no valid Unicode, or hold a NUL": 1,
        "captions that are no text (numbers, objects)": 1,
        "lines without a caption": 1,
        "lines that name no picture here": 1,
        "further captions of a picture": 1,
    }


@pytest.mark.parametrize("looked_at", [10_000, 2])
def test_texts_that_cannot_be_read_are_counted(
    looked_at: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_captions, "LOOKED_AT", looked_at)
    texts(root)
    (root / "0000.txt").write_bytes("ein gr\u00fcnes Quadrat".encode("latin-1"))
    (root / "0002.txt").write_bytes(b"a\0b")
    (root / "0003.txt").unlink()
    (root / "readme.txt").write_text("of no picture")
    assert captions(root) == [None, CAPTIONS[1], None, None]
    account = opened(root).account()
    assert (
        account.left_out["captions that are no UTF-8" + (" (of 2 that were looked at)" * (looked_at == 2))]
        == 1
    )
    assert account.captions == (1 if looked_at == 10_000 else 2)  # 0000 and 0001 were looked at
    assert account.left_out["other files"] == 1


def test_pictures_that_are_not_read_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(38):
        (root / f"IMG_{number}.CR2").write_bytes(b"II*\0")
    (root / "notes.md").write_text("")
    (root / "metadata.jsonl").write_text('{"file_name": "0000.png", "label": 3}\n')
    account = opened(root).account()
    opened(root)
    assert caplog.messages == [f"{root}: left out: 38 .cr2 files, a kind of picture that is not read"]  # once
    assert account.left_out == {".cr2 files, a kind of picture that is not read": 38, "other files": 2}
    assert account.captions == 0  # metadata without captions is no place for them
    for name in NAMES:
        (root / name).unlink()
    assert "found 38 .cr2 files, a kind of picture that is not read, 2 other files" in refused(root)


# ---- what is refused -----------------------------------------------------------------------------------------


def test_a_file_of_which_no_line_names_a_picture(root: Path) -> None:
    lines(root / "captions.jsonl", [f"other{number}.png" for number in range(4)])
    assert "captions.jsonl: none of its 4 lines names a picture" in refused(root)
    assert "the first: 'other0.png'" in refused(root)
    lines(root / "captions.jsonl", ["/a/x/0000.png", "/a/y/0001.png", "/a/y/0002.png", "gone"])
    assert "several folders that are not here, such as" in refused(root)
    lines(root / "captions.jsonl", ["/a/set/0000.png", "/a/y/0001.png", "/a/y/0002.png", "gone"])
    assert captions(root) == ["a red square", None, None, None]  # only one of them has this folder's name


def test_names_made_elsewhere_never_stand_beside_right_ones(root: Path) -> None:
    """`val/0001.png` is another picture than `0001.png`, though nothing else is called so here."""
    lines(root / "captions.jsonl", ["0000.png", "/val/0001.png", "val/0002.png", "val\\0003.png"])
    assert captions(root) == ["a red square", None, None, None]
    assert opened(root).account().left_out == {"lines that name no picture here (captions.jsonl)": 3}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "captions.jsonl",
            '{"file_name": "0000.png", "alt": "x"}',
            "captions.jsonl: expected captions in caption, ",
        ),
        ("captions.jsonl", '{"caption": "x"}', "line 1: expected the string `file_name`"),
        ("captions.jsonl", "", "captions.jsonl: expected captions in"),
        ("captions.jsonl", "[" * 100_000, "line 1: no valid JSON"),
        ("metadata.csv", "file_name,text\n\0", "metadata.csv: character 16 is a NUL"),
        ("metadata.parquet", "PAR1", "metadata.parquet: no valid parquet"),
    ],
)
def test_damaged_files(name: str, content: str, said: str, root: Path) -> None:
    (root / name).write_text(content)
    assert said in refused(root)
    assert captions(root, unconditional=True) == [None] * 4


def test_a_folder_that_cannot_be_searched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "closed").mkdir()
    scandir = os.scandir

    def closed(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert "cannot be searched: Permission denied" in refused(root)


# ---- parts ---------------------------------------------------------------------------------------------------


def test_a_part_changes_when_one_of_its_pictures_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.data import folder

    monkeypatch.setattr(folder, "PART", 8)
    monkeypatch.setattr(folder, "LONGEST_PART", 40)
    write(tmp_path, [f"{number:04d}.png" for number in range(200)])

    def parts() -> dict[str, str]:
        source = opened(tmp_path)
        found = source.parts()
        assert [part.start for part in found] == [sum(p.count for p in found[:n]) for n in range(len(found))]
        assert sum(part.count for part in found) == len(source)
        assert len({part.name for part in found}) == len(found)
        return {part.name: part.fingerprint for part in found}

    before = parts()
    assert parts() == before and 10 < len(before) < 50
    (tmp_path / "captions.jsonl").write_text('{"file_name": "0000.png", "caption": "x"}')
    assert parts() == before
    changes = (
        lambda: os.utime(tmp_path / "0100.png", (1, 1)),
        lambda: (tmp_path / "0100.png").unlink(),
        lambda: write(tmp_path, ["0100a.png"]),
    )
    for change in changes:
        change()
        now = parts()
        assert 1 <= len(set(now.items()) - set(before.items())) <= 2
        before = now
