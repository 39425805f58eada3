"""The same texts through every entrance: what is text comes in as it is, and what is none is refused in a line where a
user typed it, and costs one caption where it is data. Nothing ends in a traceback, and nothing is altered on the way.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_sets import add_member, encoded

from common.data.config import SourceConfig
from common.data.open import open_indexed
from common.errors import UserError
from common.text import checked

TEXTS = [
    "a red circle",
    "红色的圆 🦒",
    "line\u2028separator\u2029paragraph\x85next\x0btab\x0cfeed\x1cfile",
    "e\u0301 is not \u00e9",
    "a carriage\rreturn",
    "zero\u200bwidth \ufeff inside",
    'quotes " and \\ and </s> <image> {}',
]
HALF, NUL = "half \ud83d of it", "a \0 here"
MARKED = "\ufeffmarked"

Entrance = Callable[[Path, str], str | None]
"""A folder to write into, and a text -> what comes in; None where the text was left out."""


def caption(root: Path, **options: Any) -> str | None:
    return open_indexed(SourceConfig(path=str(root), **options)).read(0).caption


def shard(root: Path, name: str, content: bytes) -> str | None:
    with tarfile.open(root / "a.tar", "w") as tar:
        add_member(tar, "0.png", encoded(0))
        add_member(tar, name, content)
    return caption(root / "a.tar", kind="shards")


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def folder(root: Path, name: str, content: bytes) -> str | None:
    (root / "0.png").write_bytes(encoded(0))
    (root / name).write_bytes(content)
    return caption(root, kind="folder")


def line(**fields: str) -> bytes:
    return json.dumps({"file_name": "0.png", **fields}).encode()


def plain_line(**fields: str) -> bytes:
    """Not escaped, as most programs write it."""
    return raw(json.dumps({"file_name": "0.png", **fields}, ensure_ascii=False))


def metadata_csv(root: Path, text: str) -> str | None:
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows([("file_name", "text"), ("0.png", text)])
    return folder(root, "metadata.csv", (root / "metadata.csv").read_bytes())


def column(root: Path, text: str, kind: str) -> str | None:
    """Written as Arrow's own writers would not: a cell may be no UTF-8."""
    import pyarrow
    from pyarrow import parquet

    content = raw(text)
    ends = pyarrow.py_buffer(bytes(4) + len(content).to_bytes(4, "little"))
    cells = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, ends, pyarrow.py_buffer(content)])
    parquet.write_table(pyarrow.table({"image": [encoded(0)], "text": cells}), root / "train-00000.parquet")
    return caption(root, kind=kind)


def hub(root: Path, text: str) -> str | None:
    found = column(root, text, "hub")
    account = open_indexed(SourceConfig(kind="hub", path=str(root))).account()
    assert account.captions == (found is not None) and sum(account.left_out.values()) == (found is None)
    return found


def llava(root: Path, text: str) -> str | None:
    from understanding.conversation import BadSample, read_conversation
    from understanding.records.json_file import read_records

    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "an answer"}]
    (root / "llava.json").write_text(json.dumps([{"id": "0", "conversations": turns}]))
    ((_, _, record),) = read_records(str(root / "llava.json"))
    try:
        return read_conversation(record).messages[0]["content"]
    except BadSample:
        return None


DATA: dict[str, Entrance] = {
    "shards .txt": lambda root, text: shard(root, "0.txt", raw(text)),
    "shards .json": lambda root, text: shard(root, "0.json", json.dumps({"caption": text}).encode()),
    "captions.jsonl": lambda root, text: folder(root, "captions.jsonl", line(caption=text)),
    "metadata.jsonl": lambda root, text: folder(root, "metadata.jsonl", line(text=text)),
    ".txt": lambda root, text: folder(root, "0.txt", raw(text)),
    "LLaVA": llava,
    "hub": hub,
    "parquet": lambda root, text: column(root, text, "parquet"),
}


def prompts(root: Path, name: str, content: bytes) -> str:
    from vqrae.generate import read_prompts

    (root / name).write_bytes(content)
    (found,) = read_prompts(root / name)
    return found


def tuning(root: Path, name: str, content: bytes) -> str:
    from evals.scorers.prompts import read_scored_prompts

    (root / name).write_bytes(content)
    (found,) = read_scored_prompts(root / name, [])
    return found.text


def geneval(root: Path, text: str) -> str:
    from evals.geneval.prompts import read_prompts

    metadata = {"tag": "single_object", "include": [{"class": "bird", "count": 1}], "prompt": text}
    (root / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    return read_prompts(root / "metadata.jsonl")[0].text


def dpg(root: Path, text: str) -> str:
    from evals.dpg.rules import COLUMNS, read_items

    with (root / "dpg.csv").open("w", newline="", encoding="utf-8-sig", errors="surrogatepass") as file:
        csv.writer(file).writerows([COLUMNS, ("a", text, "1", "0", "entity - whole (a)", "Is it?")])
    return read_items(root / "dpg.csv", "fixed")[0].text


def questions(root: Path, text: str) -> str:
    from understanding.chat.question_file import Question, read_questions

    (root / "q.jsonl").write_bytes(json.dumps({"question": text}).encode() + b"\n")
    (found,) = read_questions(root / "q.jsonl")
    if not isinstance(found, Question):
        raise UserError(found[1])
    return found.question


def turn(root: Path, text: str) -> str:
    """`vqrae ask`, `vqrae chat`, and all who call a `ChatModel`."""
    from understanding.chat.turns import read_turns

    return str(read_turns([], [{"role": "user", "content": text}])[1][0]["content"][0]["text"])


TYPED: dict[str, Entrance] = {
    "a prompt": lambda root, text: checked(text),
    "a turn": turn,
    "prompts.txt": lambda root, text: prompts(root, "p.txt", raw(text) + b"\n"),
    "prompts.jsonl": lambda root, text: prompts(root, "p.jsonl", json.dumps({"prompt": text}).encode()),
    "plain prompts.jsonl": lambda root, text: prompts(
        root, "p.jsonl", raw(json.dumps({"prompt": text}, ensure_ascii=False))
    ),
    "tuning .txt": lambda root, text: tuning(root, "p.txt", raw(text)),
    "tuning .jsonl": lambda root, text: tuning(root, "p.jsonl", json.dumps({"prompt": text}).encode()),
    "geneval": geneval,
    "dpg": dpg,
    "questions": questions,
}
WHOLE_FILES: dict[str, Entrance] = {
    "metadata.csv": metadata_csv,
    "plain captions.jsonl": lambda root, text: folder(root, "captions.jsonl", plain_line(caption=text)),
}
"""Data too; but a file that is no UTF-8 is refused, in one line."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def places(tmp_path: Path) -> Callable[[int], Path]:
    def place(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    return place


@pytest.mark.parametrize("name", [*DATA, *TYPED, *WHOLE_FILES])
def test_text_comes_in_as_it_is(name: str, places: Callable[[int], Path]) -> None:
    entrance = {**DATA, **TYPED, **WHOLE_FILES}[name]
    for number, text in enumerate([*TEXTS, MARKED]):
        assert entrance(places(number), text) == text.removeprefix("\ufeff"), ascii(text)


@pytest.mark.parametrize("text", [HALF, NUL])
@pytest.mark.parametrize("name", DATA)
def test_in_data_what_is_no_text_costs_one_caption(
    name: str, text: str, places: Callable[[int], Path]
) -> None:
    assert DATA[name](places(0), text) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [*((name, text) for name in TYPED for text in (HALF, NUL)), *((name, HALF) for name in WHOLE_FILES)],
)
def test_what_a_user_typed_is_refused_in_a_line(name: str, text: str, places: Callable[[int], Path]) -> None:
    with pytest.raises(UserError) as caught:
        {**TYPED, **WHOLE_FILES}[name](places(0), text)
    said = str(caught.value)
    assert "\n" not in said and said.isprintable()
    assert any(word in said for word in ("no valid Unicode", "is a NUL", "text in UTF-8", "no valid JSON"))
