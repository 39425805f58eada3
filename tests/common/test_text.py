"""Text that comes in: what is no text is refused, and only a line feed ends a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from common.text import checked, read_lines


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
