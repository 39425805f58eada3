"""What is held against a killed run sees a sample that was lost or came twice, and a checkpoint that is not whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.killing.evidence import Result, compare, corrupt_checkpoints, history, ledger_of


def write(run: Path, *entries: dict[str, Any]) -> Path:
    """A ledger of both ranks, and a model."""
    (run / "model").mkdir(parents=True, exist_ok=True)
    (run / "model" / "weights").write_text("same")
    for rank in range(2):
        ledger_of(run, rank).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return run


def given(*keys: str) -> list[dict[str, Any]]:
    return [{"samples": [key]} for key in keys]


LIFE = {"life": 0, "pid": 1}


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Three steps of two micro-batches."""
    return write(tmp_path / "alone", LIFE, *given(*"abcdef"))


def judged(run: Path, alone: Path) -> tuple[int, int, int, int]:
    result = Result("tokenizer", run.name, "fork")
    compare(result, run, alone)
    return result.lost, result.repeated, result.misplaced_steps, result.unequal


def test_what_a_killed_life_did_after_its_checkpoint_is_undone(alone: Path) -> None:
    """Killed in step 3 after step 1 was saved; then before it had read anything; then not again."""
    second = [LIFE, {"resumed": 1}, LIFE, {"resumed": 1}, *given(*"cdef")]
    run = write(alone.with_name("run"), LIFE, *given(*"abcde"), *second)
    assert history(run, 0) == [[key] for key in "abcdef"]
    assert judged(run, alone) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([LIFE, *given(*"abcd"), LIFE, {"resumed": 1}, *given(*"ef")], (4, 0, 4, 0)),  # c and d are nobody's
        ([LIFE, *given(*"abcd"), LIFE, {"resumed": 2}, *given(*"cdef")], (0, 4, 4, 0)),  # and here twice
        ([LIFE, *given(*"ab"), LIFE, {"resumed": 2}, *given(*"ef")], (4, 4, 4, 0)),  # never seen at all
        ([LIFE, *given(*"abdcef")], (0, 0, 4, 0)),
    ],
)
def test_lost_and_repeated(entries: list[dict[str, Any]], expected: tuple[int, ...], alone: Path) -> None:
    assert judged(write(alone.with_name("run"), *entries), alone) == expected


def test_weights_and_checkpoints_byte_by_byte(alone: Path, tmp_path: Path) -> None:
    run = write(alone.with_name("run"), LIFE, *given(*"abcdef"))
    (run / "model" / "weights").write_text("samf")
    (run / "model" / "more").touch()
    assert judged(run, alone) == (0, 0, 0, 2)
    for step in (4, 8, 12, 16):
        folder = tmp_path / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"whole")
        listed = {"weights": {"bytes": 5, "sha256": hashlib.sha256(b"whole").hexdigest()}}
        (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    (tmp_path / "checkpoints/step_00000008/weights").write_bytes(b"whols")
    (tmp_path / "checkpoints/step_00000012/manifest.json").unlink()
    (tmp_path / "checkpoints/step_00000016/extra").touch()
    found = [line.split(":")[0] for line in corrupt_checkpoints(tmp_path / "checkpoints")]
    assert found == ["step_00000008", "step_00000012", "step_00000016"]
