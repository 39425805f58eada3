"""Whatever a reader of data is fed with: samples, or one line. A few fixed examples of each reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from benchmarks.fuzz import SeveralLines, outcome
from benchmarks.fuzz_inputs import edited
from benchmarks.fuzz_readers import READERS, Reader
from common.data.images import CorruptImage

EXAMPLES = 25


@pytest.mark.parametrize("name", READERS)
def test_only_errors_of_ours_come_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path))
    found = outcome(READERS[name], EXAMPLES)
    if found.fault is not None:
        raise AssertionError(f"{name}: {found.example}") from found.fault
    assert found.counts.total() >= EXAMPLES


def test_another_error_is_found_and_made_small() -> None:
    def read(content: bytes, folder: Path) -> int:
        if len(content) > 3 and content[0] > 9:
            raise KeyError("a library's own")
        return len(content)

    found = outcome(Reader(st.binary(), read), 500, seed=1)
    assert isinstance(found.fault, KeyError) and found.example == repr(b"\n\0\0\0")
    assert found.counts["read"] and found.counts["nothing in it"]


def test_a_line_of_ours_is_one_line() -> None:
    def read(content: bytes, folder: Path) -> int:
        raise CorruptImage("two\nlines")

    assert isinstance(outcome(Reader(st.binary(), read), 5).fault, SeveralLines)


def test_edits() -> None:
    content = bytes(range(100))
    assert edited(content, [("cut", 10, b"x")]) == content[:10]
    assert edited(content, [("overwrite", 2, b"ab"), ("insert", 0, b"z")]) == b"z\0\1ab" + content[4:]
    assert edited(content, [("drop", 90, b"x")]) == content[:90]
    assert edited(content, [("double", 50, b"x")]) == content + content[50:]
    assert edited(content, [("flip", 5, b"\1")])[5] == 5 ^ 2
    assert edited(b"", [("flip", 7, b"a"), ("double", 3, b"b")]) == b""
