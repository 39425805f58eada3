"""Benchmarks' prompts among captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from common.preflight.leaks import LeakSearch, compared, read_prompts

LONG = (
    "A weathered wooden rowing boat rests on the pebbled shore of a still mountain lake, its red paint peeling, "
    "while two oars lie crossed upon its bench and mist rises behind it."
)
SHORT = "a photo of a red apple and a green bottle"
TINY = "a photo of a bench"


def found(caption: str) -> tuple[int, int]:
    search = LeakSearch({"mine": [LONG, SHORT, TINY]})
    search.add(caption, "here")
    return search.found["mine"].equal, search.found["mine"].holding


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (LONG, (1, 0)),
        ("  A PHOTO of red apple, and the green bottle! ", (1, 0)),
        ("A photo of the bench.", (1, 0)),
        ("\uff21 photo of a bench", (1, 0)),  # full-width
        (f"{LONG} A heron watches.", (0, 1)),
        (LONG[: len(LONG) * 2 // 3], (0, 1)),
        (LONG[: len(LONG) // 3], (0, 0)),  # less than half of its runs
        ("Here is a photo of a red apple and a green bottle on a table", (0, 1)),
        ("a photo of a red apple and a blue bottle", (0, 0)),
        ("a photo of a bench in the park", (0, 0)),  # common speech
        (" ".join(reversed(LONG.split())), (0, 0)),
        ("", (0, 0)),
    ],
)
def test_what_counts(caption: str, expected: tuple[int, int]) -> None:
    assert found(caption) == expected


def test_words_are_compared() -> None:
    assert compared("The  cat's\nTOY -- an apple") == ("cat", "s", "toy", "apple")


def test_the_page_has_counts_and_a_few_examples() -> None:
    search = LeakSearch({"mine": [SHORT, LONG], "other": ["two small wooden boats on a lake"]})
    for number in range(20):
        search.add(f"{SHORT}, number {number}", f"shard/{number}")
    search.add(SHORT, "shard/20")
    search.add("a photo of two clocks", "shard/21")  # GenEval's, known without its file
    lines = search.lines()
    assert lines[0] == "leaks            22 captions looked at"
    assert "  1 equal a prompt of mine, 20 hold one; 1 of its prompts are met" in lines
    assert "  0 equal a prompt of other, 0 hold one; 0 of its prompts are met" in lines
    geneval = lines.index("  1 equal a prompt of GenEval")
    assert lines[geneval + 1] == "    shard/21: 'a photo of two clocks'"
    assert sum("shard/" in line for line in lines) == 6  # five of mine, one of GenEval


def test_prompts_are_read_as_the_benchmarks_write_them(tmp_path: Path) -> None:
    (tmp_path / "evaluation_metadata.jsonl").write_text(
        "".join(json.dumps({"tag": "single_object", "prompt": text}) + "\n" for text in (TINY, SHORT, TINY))
    )
    (tmp_path / "dpg_bench.csv").write_text(
        f'item_id,text,proposition_id\n1,"{LONG}",1\n1,"{LONG}",2\n2,{SHORT},1\n'
    )
    (tmp_path / "plain.txt").write_text(f"{TINY}\n\n{SHORT}\n")
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "1.txt").write_text(LONG)
    (folder / "2.txt").write_text(f"{SHORT}\n")
    assert read_prompts(tmp_path / "evaluation_metadata.jsonl") == [TINY, SHORT]
    assert read_prompts(tmp_path / "dpg_bench.csv") == read_prompts(folder) == [LONG, SHORT]
    assert read_prompts(tmp_path / "plain.txt") == [TINY, SHORT]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", "id,words\n1,x\n", "no column text or prompt"),
        ("a.csv", "text\n", "no prompts"),
        ("a.csv", b"text\n\xff\n", "cannot be read"),
        ("a.jsonl", "{}\n", "line 1: expected an object with `prompt`"),
        ("a.jsonl", "[1\n", "line 1"),
        ("a.txt", "\n \n", "no prompts"),
        ("a.txt", b"\xff\n", "expected text in UTF-8"),
        ("gone.txt", None, "cannot be read"),
    ],
)
def test_other_files_are_refused(
    name: str, content: str | bytes | None, complaint: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=complaint) as error:
        read_prompts(tmp_path / name)
    assert "\n" not in str(error.value)
