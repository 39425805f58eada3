"""A run that is asked to stop: what was done is saved, and the same command goes on to the same end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from benchmarks.forked_runs import ForkedRun, ForkServer
from common.data.workers import in_workers
from common.errors import UserError
from common.training import stop as stopping
from common.training.command import parse_arguments
from common.training.stop import (
    PREEMPTED,
    StoppedEarly,
    StopRequest,
    listening,
    read_duration,
    stop_request,
    until_stopped,
)

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h50m", 13800), ("90s", 90), ("1d12h", 129600), ("45m", 2700)]
)
def test_a_time_limit_is_read(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "3", "-3h", "3h 50m", "50m3h", "1.5h", "3:50:00", "٣h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--time-limit: expected a time"):
        read_duration(text)


def test_the_trainers_take_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--time-limit", "3h50m", "steps=3"])
    assert parse_arguments("", Path("r.yaml")).time_limit == "3h50m"


def test_a_signal_is_heard_at_the_end_of_the_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listening(tmp_path):
        stop = stop_request(tmp_path)
        stop.begin(10)
        assert not stop.agreed(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # its launcher's, of the same request
        assert stop.agreed(2)
        assert "step 2 is done" in stop.leave(2)
    record = json.loads((tmp_path / PREEMPTED).read_text())
    assert (record["step"], record["reason"]) == (2, "SIGTERM") and record["when"].endswith("+00:00")
    assert signal.getsignal(signal.SIGTERM) is before
    stop_request(tmp_path)
    assert not (tmp_path / PREEMPTED).exists()


def test_the_same_signal_again_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(stopping.os, "_exit", codes.append)
    monkeypatch.setattr(stopping, "AGAIN", 0.0)
    stop = StopRequest(tmp_path, True)
    stop.begin(10)
    stop.hear(signal.SIGUSR1)
    stop.hear(signal.SIGTERM)  # what a batch system sends at the end of the time that it gave
    assert not codes
    stop.hear(signal.SIGUSR1)
    assert codes == [128 + signal.SIGUSR1]


def test_before_the_first_step_a_signal_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended, listening(tmp_path):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert ended.value.code == 0
    record = json.loads((tmp_path / PREEMPTED).read_text())
    assert (record["step"], record["reason"]) == (None, "SIGUSR1")


def test_a_time_limit_counts_from_the_start_of_the_process(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path, True, time_limit=0.001)
    stop.begin(10)
    assert stop.agreed(1)
    assert "time limit" in stop.leave(1)
    late = StopRequest(tmp_path, True, time_limit=1e6)
    late.begin(10)
    assert not late.agreed(1)


def test_a_run_whose_last_step_is_done_is_not_stopped(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path, True)
    stop.begin(3)
    stop.hear(signal.SIGTERM)
    assert not stop.agreed(3)


def test_an_evaluation_is_cut_short(tmp_path: Path) -> None:
    assert list(until_stopped(range(3))) == [0, 1, 2]
    seen = []
    with listening(tmp_path), pytest.raises(StoppedEarly):
        stop_request(tmp_path).begin(10)
        for number in until_stopped(range(100)):
            seen.append(number)
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [0, 1, 2, 3]


def test_loading_processes_outlive_a_signal_to_their_group(tmp_path: Path) -> None:
    with listening(tmp_path):
        stop_request(tmp_path).begin(10)
        loaded = in_workers(lambda numbers: os.getpid(), lambda: ([n] for n in range(1000)), 1, 2)
        worker = next(loaded)
        for number in ("-INT", "-USR1", "-TERM"):
            subprocess.run(["kill", number, str(worker)], check=True)  # not from its parent
        assert {next(loaded) for _ in range(20)} == {worker}
        (process,) = (child for child in multiprocessing.active_children() if child.pid == worker)
        process.terminate()
        process.join(30)
        assert process.exitcode == 0


# --- Two processes

ACCUMULATION = "deepspeed.runtime.engine:DeepSpeedEngine.backward"
EVALUATION = "common.metrics.reconstruction:ReconstructionMetrics.update"
SAVE = "common.training.state:TrainingState.save"
MIDDLES = {
    "step 1, in the middle of accumulation, on rank 1": (f"{ACCUMULATION}:1", 1, 1),
    "step 3, in the middle of the evaluation, on rank 0": (f"{EVALUATION}:1", 0, 4),
    "step 6, in the middle of the save, on rank 1": (f"{SAVE}:1", 1, 6),
}
RECIPE = ["steps=7", "batch.micro_size=1", "checkpoint.save_every=2", "evaluation.limit=9", "data.workers=1"]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(["preempt_jobs"], [TESTS]) as forks:
        yield forks


class Trainings:
    """Runs of the tiny tokenizer in two processes."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.pictures = tiny.write_pictures(folder / "pictures")

    def start(self, name: str, *overrides: str, **more: Any) -> ForkedRun:
        arguments = {
            "job": "tokenizer",
            "shelf": str(self.pictures),
            "output": str(self.folder / name),
            "overrides": [*RECIPE, *overrides],
            **more,
        }
        return self.server.start("preempt_jobs:train", 2, self.folder / f"{name}_logs", arguments)


@pytest.fixture
def trainings(server: ForkServer, tmp_path: Path) -> Trainings:
    return Trainings(server, tmp_path)


def digests(run: ForkedRun) -> list[str]:
    return [line for line in run.said(0).splitlines() if line.startswith("digest ")]


@pytest.mark.slow
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_weights(trainings: Trainings) -> None:
    whole = trainings.start("whole")
    run = trainings.folder / "stopped"
    for told, (at, rank, step) in MIDDLES.items():
        stopped = trainings.start("stopped", at=at, rank=rank)
        assert stopped.wait(300) == [0, 0], (told, stopped.said(0), stopped.said(1))
        record = json.loads((run / PREEMPTED).read_text())
        assert (record["step"], record["reason"]) == (step, "SIGTERM"), told
        assert (run / "checkpoints" / "latest").read_text().strip() == f"step_{step:08d}", told
        assert not (run / "model").exists()
    evaluated = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"evaluation"' in line]
    assert not evaluated  # what was cut short is not told as a score
    last = trainings.start("stopped")
    assert last.wait(300) == [0, 0], last.said(0)
    assert whole.wait(300) == [0, 0], whole.said(0)
    assert not (run / PREEMPTED).exists()
    assert "digest" in whole.said(0)
    assert digests(last)[-1:] == digests(whole)


@pytest.mark.slow
def test_a_rank_that_is_killed_and_one_that_hangs_end_the_run_in_one_line(trainings: Trainings) -> None:
    at = {"at": f"{ACCUMULATION}:3", "rank": 1}
    killed = trainings.start("killed", **at, signal_number=int(signal.SIGKILL))
    hanging = trainings.start("hanging", "processes.silent_after=4", **at, signal_number=int(signal.SIGSTOP))
    refused = trainings.start("refused", **at, signal_number=0)
    assert killed.wait(120) == [3, -signal.SIGKILL]
    assert hanging.wait(60)[0] == 3
    assert refused.wait(60) == [3, 2]
    hanging.end()
    for run, told in ((killed, "is gone without a word"), (hanging, "no sign of life for 4 s")):
        said = run.said(0)
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: rank 1 (process ") and told in line
    assert "error: " not in refused.said(0) and "Traceback" not in refused.said(0)
    assert refused.said(1).count("error: pictures: refused") == 1 and "Traceback" not in refused.said(1)
