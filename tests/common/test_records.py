"""Records of a run: appended to, read back whole, whatever a kill has left in between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.training import run as run_folder
from common.training import writers
from common.training.records import Records, read_records
from common.training.reporter import LoggingConfig, Reporter


def report(run: Path, start: int, steps: range, kind: str = "train", loss: float = 0.5) -> None:
    config = LoggingConfig(log_every=1, picture_every=1, evaluate_every=1, writers=())
    reporter = Reporter(run, config, 9, start)
    for step in steps:
        reporter.line(step, {"loss": loss + step}, kind)
    reporter.close("done")


def steps_of(run: Path, kind: str | None = None) -> list[int]:
    return [record["step"] for record in read_records(run, kind)]


def test_a_resume_appends_and_what_it_supersedes_is_not_read(tmp_path: Path) -> None:
    report(tmp_path, 0, range(1, 6))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    report(tmp_path, 3, range(4, 7), loss=0.25)
    after = (tmp_path / "metrics.jsonl").read_bytes()
    assert after.startswith(before) and b'\n{"step": 3, "kind": "resume"}\n' in after
    assert [(r["step"], r["loss"] % 1) for r in read_records(tmp_path)] == [
        *((step, 0.5) for step in (1, 2, 3)),
        *((step, 0.25) for step in (4, 5, 6)),
    ]
    report(tmp_path, 0, range(1, 2))  # from the start once more: nothing of it is left
    assert steps_of(tmp_path) == [1] and steps_of(tmp_path / "metrics.jsonl") == [1]


def test_a_run_that_goes_back_supersedes_too(tmp_path: Path) -> None:
    records = Records(tmp_path, 0)
    for step in (1, 2, 3):
        records.append({"step": step, "kind": "train"})
    records.append({"step": 3, "kind": "evaluation"})
    records.rewind(2)
    records.append({"step": 3, "kind": "train"})
    records.close()
    assert steps_of(tmp_path) == [1, 2, 3] and steps_of(tmp_path, "evaluation") == []


@pytest.mark.parametrize(
    "torn",
    [
        b'{"step": 4, "kind": "train", "loss": 0.',
        b'{"step": 4, "kind": "train", "terms": {"l2": 1}',  # it ends as a whole one does
        b'{"step": 4}',
        b"4}",
        b"[1]",
        b'{"step": 4.5, "kind": "train"}',
        b'{"step": true, "kind": "train"}',
        b'{"step": 4, "kind": "\xff\xfe"}',
        b"\x00" * 512,
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("ended", [b"", b"\n"])
def test_whatever_a_kill_leaves_is_passed_over(torn: bytes, ended: bytes, tmp_path: Path) -> None:
    report(tmp_path, 0, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn + ended)
    assert steps_of(tmp_path) == [1, 2, 3]
    report(tmp_path, 3, range(4, 6))
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]


def test_a_line_is_json_in_the_strict_sense(tmp_path: Path) -> None:
    for loss in (math.nan, math.inf, -math.inf):
        report(tmp_path, 0, range(1, 2), loss=loss)

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [record["loss"] for record in records if record["kind"] == "train"] == [None] * 3


def test_records_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics.jsonl: No such file"):
        read_records(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl"):
        report(tmp_path, 0, range(1))


def test_a_run_keeps_its_id_and_shares_it_with_none(tmp_path: Path) -> None:
    one, other = (run_folder.open_run(str(tmp_path / name / "run"), True) for name in ("one", "other"))
    identity = run_folder.identity(one)
    assert identity.isalnum() and identity != run_folder.identity(other)
    moved = one.rename(tmp_path / "moved")
    assert run_folder.identity(run_folder.open_run(str(moved), True)) == identity
    for damaged in ("", "{", "[]", '{"id": 3}', '{"id": "a/b"}'):
        (moved / "run.json").write_text(damaged)
        with pytest.raises(UserError, match=r"run.json: cannot be read; remove it"):
            run_folder.identity(moved)


class Wandb:
    """What of wandb a run calls."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []

    def init(self, **options: Any) -> Wandb:
        self.begun.append(options)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None: ...


def test_wandb_finds_a_run_by_its_own_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setattr(writers, "_wandb_with_key", lambda: wandb)
    config = LoggingConfig(log_every=1, picture_every=1, evaluate_every=1, writers=("wandb",))
    for name, start in (("here", 0), ("there", 3)):
        run = run_folder.open_run(str(tmp_path / name), True)
        reporter = Reporter(run, config, 9, start)
        reporter.line(start + 1, {"loss": 1.0})
        reporter.close("done")
        run.rename(tmp_path / "there")
    first, again = wandb.begun
    assert first["id"] == again["id"] == run_folder.identity(tmp_path / "there") != "there"
    assert first["resume"] == "allow"
    assert wandb.logged == [{"train/loss": 1.0, "step": 1}, {"train/loss": 1.0, "step": 4}]


def test_a_resume_keeps_the_step_it_goes_on_from_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (1, 2, 3, 4)), (3, (4, 5))):
        writer = writers.TensorBoard(tmp_path, start)
        for step in steps:
            writer.scalars(step, {"loss": 10.0 * start + step})
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(1, 1), (2, 2), (3, 3), (4, 34), (5, 35)]
