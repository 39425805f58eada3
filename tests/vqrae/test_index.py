"""`vqrae index`: the index that training reads, and what a set of shards holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_sets import make_shards

from common.data.config import SourceConfig
from common.data.open import open_source
from common.data.tars import store
from common.errors import UserError
from vqrae.cli import dispatch


def test_an_index_is_made_told_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path, [3, 4])
    (tmp_path / "train-002.tar").write_bytes(b"<html>")
    for workers in ("1", "2"):
        dispatch(["index", str(tmp_path), "--workers", workers, "--max-damaged-shards", "0.5"])
        assert capsys.readouterr().out.splitlines() == [
            "shards: 2, and 1 damaged",
            "samples: 7",
            "pictures: .png (7)",
            "other members: .txt (4), .json (3)",
            "keys of .json: caption (3)",
            "captions in the standard places: 7",
            f"index: {tmp_path / '.vqrae-index'}",
        ]
    with pytest.raises(UserError, match=r"1 of 3 shards cannot be read.*train-002\.tar: no plain tar"):
        dispatch(["index", str(tmp_path)])
    monkeypatch.setattr(store, "scan", None)
    assert len(open_source(SourceConfig(kind="shards", path=str(tmp_path / "train-00[01].tar"))).parts()) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [["gone"], ["x", "--max-damaged-shards", "2"], ["x", "--workers", "0"]])
def test_what_is_refused(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, SystemExit)):
        dispatch(["index", *words])
