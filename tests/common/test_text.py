"""Text that comes in: what is no text is refused, and only a line feed ends a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from common.text import checked, flaw, parse_json, read_json, read_json_lines, read_lines, read_text


@pytest.mark.parametrize(
    "text", ["", "a cat", "红色的圆", "🦒", "e\u0301", "a\u2028b\x85c", "\u200b", "\x01"]
)
def test_any_text_passes(text: str) -> None:
    assert checked(text) == text == checked("\ufeff" + text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("caf\udce9", r"prompt 'caf\\udce9': character 4 is no valid Unicode"),
        ("\ud83d", "character 1 is no valid Unicode"),
        ("ab\0c", r"prompt 'ab\\x00c': character 3 is a NUL"),
    ],
)
def test_what_is_no_text_is_refused(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        checked(text)
    with pytest.raises(UserError, match=r"^FILE: line 3: character"):
        checked(text, "FILE: line 3")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\n\n b \n\n", ["a", "", " b ", ""]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"]),
    ],
)
def test_lines(content: bytes, lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    assert read_lines(path) == list(enumerate(lines, 1))


@pytest.mark.parametrize(
    "content", ["a\n\u00e9".encode("latin-1"), "a\nb".encode("utf-16"), b"\xed\xa0\xbd", b"\0"]
)
def test_files_that_are_no_text(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bytes: (expected text in UTF-8|line 1: character 1 is a NUL)"):
        read_lines(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_lines(tmp_path)


def test_a_flaw_is_told_without_raising() -> None:
    assert flaw("a\u2028b\ufeff") is None
    assert flaw("a\udc80") == (
        "character 2 is no valid Unicode (bytes that are no UTF-8, or half of a surrogate pair)"
    )


def test_a_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffa\u2028b\r\nc".encode())
    assert read_text(path) == "a\u2028b\r\nc"
    path.write_bytes("a red square".encode("utf-16"))
    with pytest.raises(UserError, match="text: expected text in UTF-8"):
        read_text(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "no valid JSON: .*recursion"),
        ('{"a": 1, "b": 2, "a": 3}', "no valid JSON: key 'a' stands twice"),
        ("9" * 10_000, "no valid JSON: "),
        ("[1e999]", "no valid JSON: 1e999 is no number"),
        ("[-Infinity]", "no valid JSON: -Infinity is no number"),
        ("[NaN]", "no valid JSON: NaN is no number"),
        ("[1,]", "no valid JSON: "),
        ("", "no valid JSON: "),
        ('"a\nb"', "no valid JSON: Invalid control character"),
        (b"\xff\xfe[\0]\0", "expected text in UTF-8"),
    ],
)
def test_what_is_no_json(content: str | bytes, said: str) -> None:
    with pytest.raises(UserError, match=f"^HERE: {said}"):
        parse_json(content, "HERE")


def test_json_of_other_programs_may_hold_what_is_no_number() -> None:
    assert parse_json(b'{"caption": "red", "similarity": NaN}', "", nan=True)["caption"] == "red"
    with pytest.raises(UserError, match="'a' stands twice"):
        parse_json('{"a": 1, "a": 1}', "HERE", nan=True)


def test_json_files(tmp_path: Path) -> None:
    """A byte order mark is none of the text, and separators of Unicode end no line."""
    whole, lines = tmp_path / "whole.json", tmp_path / "lines.jsonl"
    whole.write_text('["a\u2028b"]', encoding="utf-8-sig")
    assert read_json(whole) == ["a\u2028b"]
    lines.write_bytes('\ufeff{"a": "x\u2028y\x85"}\r\n\n \n{"a": "\\ud83d"}'.encode())
    assert list(read_json_lines(lines)) == [(1, {"a": "x\u2028y\x85"}), (4, {"a": "\ud83d"})]
    lines.write_bytes(b'1\n{"a"\n')
    with pytest.raises(UserError, match=r"lines.jsonl: line 2: no valid JSON"):
        list(read_json_lines(lines))
    for read in (read_json, lambda path: list(read_json_lines(path))):
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / "gone")
