"""Bytes by offset, from several threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data import blobs


def test_a_file_stays_open_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the cache of open files drops this one for another thread's: nothing else holds it then."""
    (tmp_path / "0.tar").write_bytes(b"0123456789")
    monkeypatch.setattr(blobs, "_open_file", blobs._OpenFile)
    assert blobs.read_at(str(tmp_path / "0.tar"), 3, 4) == b"3456"
