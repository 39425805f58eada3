"""Which prompts may be scored: never a benchmark's."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import benchmark_prompts
from common.benchmark_prompts import hashed, known_hashes
from common.errors import UserError
from evals.scorers.prompts import read_scored_prompts


def test_benchmarks_are_refused_however_they_are_written(tmp_path: Path) -> None:
    assert len(known_hashes()) == 553 + 1065
    path = tmp_path / "prompts.txt"
    for text in ("a photo of a bench", "  A Photo of a  BENCH. ", "a photo of two clocks"):
        path.write_text(f"a fine prompt\n{text}\n")
        with pytest.raises(UserError, match="is a prompt of GenEval: choose others"):
            read_scored_prompts(path, [])
    path.write_text("a photo of a bench on the moon\na photo of a bench on the moon\n\nfine\n")
    assert [one.text for one in read_scored_prompts(path, [])] == ["a photo of a bench on the moon", "fine"]
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Fine!"}\n')
    with pytest.raises(UserError, match=r"'fine' is a prompt of .*other.jsonl"):
        read_scored_prompts(path, [other])


def test_the_table_is_made_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_prompts, "KNOWN", tmp_path / "known.json")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    benchmark_prompts.main([f"A={tmp_path / 'a.txt'}"])
    assert known_hashes() == {hashed("one"): "A", hashed("two"): "A"}
