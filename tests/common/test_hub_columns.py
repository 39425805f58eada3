"""What columns of data sets hold: told when they are opened, whatever their type; one line, never an AttributeError."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from image_sets import encoded

from common.data.config import SourceConfig
from common.data.hub import HubSource
from common.data.images import CorruptImage, open_image
from common.data.inline import inline_picture
from common.data.open import open_source
from common.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def write(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """Parquet without Hugging Face's own description of its columns."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), folder / "train-00000.parquet")
    return folder


PICTURES = [{"bytes": encoded(number, 64), "path": None} for number in range(2)]
WORDS: dict[str, list[Any]] = {
    "image": PICTURES,
    "words": ["a", "b"],
    "lists": [["a", "other"], ["b"]],
    "holes": [None, " b "],
    "numbers": [1, 2],
    "objects": [{"en": "a"}, {"en": "b"}],
    "number_lists": [[1], [2]],
}


def opened(path: Path, **options: Any) -> Any:
    return open_source(SourceConfig(kind="hub", path=str(path), **options))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("column", "captions"), [("words", {"a", "b"}), ("lists", {"a", "b"}), ("holes", {None, "b"})]
)
def test_captions(column: str, captions: set[str | None], streaming: bool, tmp_path: Path) -> None:
    source = opened(write(tmp_path / "set", WORDS), caption_column=column, streaming=streaming)
    assert {source.sample(position, 0).caption for position in range(2)} == captions
    if not streaming:
        assert source.account().captions == len(captions - {None})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"caption_column": "numbers"}, "caption_column: 'numbers' holds int64, expected text"),
        ({"caption_column": "objects"}, "caption_column: 'objects' holds objects of en, expected text"),
        ({"caption_column": "number_lists"}, "caption_column: 'number_lists' holds lists of int64"),
        ({"image_column": "numbers"}, "image_column: 'numbers' holds int64, expected one picture a row"),
        (
            {"image_column": "lists"},
            "image_column: 'lists' holds lists of string, expected one picture a row",
        ),
        ({"image_column": "objects"}, "image_column: 'objects' holds objects of en"),
        ({"image_column": "gone"}, "no column 'gone' in this dataset: image, words"),
    ],
)
def test_columns_that_do_not_fit_are_told_at_opening(
    options: dict[str, str], said: str, streaming: bool, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        opened(write(tmp_path / "set", WORDS), streaming=streaming, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_usual_column_is_found_and_of_two_one_must_be_named(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"image": PICTURES, "text": ["a", "b"], "prompt": [1, 2]})
    assert opened(one).account().captions == 2
    assert opened(one, unconditional=True).read(0).caption is None
    two = write(tmp_path / "two", {"image": PICTURES, "text": ["a", "b"], "caption": ["c", "d"]})
    with pytest.raises(UserError, match="captions may be caption or text: caption_column must name one"):
        opened(two)
    assert opened(two, caption_column="text").read(1).caption == "b"


def test_pictures_in_columns_of_bytes_and_text(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "files").mkdir(parents=True)
    for number in range(2):
        (root / "files" / f"{number}.png").write_bytes(encoded(number, 64))
    texts = [base64.b64encode(encoded(number, 64)).decode() for number in range(2)]
    columns = {
        "struct": PICTURES,
        "binary": [encoded(number, 64) for number in range(2)],
        "absolute": [str(root / "files" / f"{number}.png") for number in range(2)],
        "relative": [f"files/{number}.png" for number in range(2)],
        "base64": texts,
        "data_uri": [f"data:image/png;base64,{text}" for text in texts],
        "text": ["a red square", "a green square"],
    }
    write(root, columns)
    for column in [name for name in columns if name != "text"]:
        source = opened(root, image_column=column)
        found = [open_image(source.read(index).data).getpixel((0, 0)) for index in range(2)]
        assert [pixel[0] for pixel in found] == [0, 1], column  # type: ignore[index]
    with pytest.raises(
        UserError, match="image_column: 'text' holds text that is no picture's path, such as 'a red"
    ):
        opened(root, image_column="text")


def test_a_dead_address_is_a_damaged_picture_that_says_so(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "set", {"image": ["http://127.0.0.1:9/gone.png"] * 2}))
    with pytest.raises(CorruptImage, match=r"http://127.0.0.1:9/gone.png: download failed 3 times"):
        open_image(source.read(0).data)


def test_parts_are_those_of_the_data_and_not_of_the_columns(tmp_path: Path) -> None:
    import os

    path = write(tmp_path / "set", WORDS)
    first, other = opened(path, caption_column="words"), opened(path, caption_column="holes")
    assert isinstance(first, HubSource) and first.parts() == other.parts()
    assert [(part.name, part.start, part.count) for part in first.parts()] == [("rows 0", 0, 2)]
    os.utime(path / "train-00000.parquet", (1, 1))
    assert opened(path).parts()[0].fingerprint != first.parts()[0].fingerprint


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data:image/png;base64,AAEC", b"\0\1\2"),
        ("data:;base64,AAEC", b"\0\1\2"),
        ("DATA:image/svg+xml;charset=utf-8;base64,AAEC", b"\0\1\2"),
        ("data:image/png;base64,??", b""),
        ("data:image/png;base64,AAE=AAAA", b"\0\1"),
        ("data:image/png,AAEC", None),
        ("pictures/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", None),
        ("/9j/" + "A" * 40 + ".jpg", None),
        ("/9j/AAEC", None),
        ("/9j/" + "A" * 40 + "\n" + "_-", base64.b64decode("/9j/" + "A" * 40 + "/+==")),
    ],
)
def test_pictures_in_the_text_itself(text: str, found: bytes | None) -> None:
    assert inline_picture(text) == found
