"""Loading processes that die, are interrupted, or cannot hand over what they have read: a line says so."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.data.workers import in_workers
from common.errors import UserError, lost_worker, run_cli


def endless() -> list[list[int]]:
    return [[number] for number in range(1000)]


def killed(numbers: list[int]) -> int:
    if numbers == [3]:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers[0]


def said_by(main: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="2"):
        run_cli(lambda: main() and None)
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


@pytest.mark.slow
def test_a_killed_worker_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    told = said_by(lambda: list(in_workers(killed, endless, 2, 2)), capsys)
    assert (
        "a data worker was killed, most likely because memory ran out (signal 9); lower data.workers" in told
    )


def test_what_torch_says_of_a_lost_worker_is_understood() -> None:
    start = "DataLoader worker (pid 12) is killed by signal: "
    for error, words in (
        (
            f"{start}Bus error. It is possible that dataloader's workers are out of shared memory.",
            "--shm-size",
        ),
        (f"{start}Killed. ", "memory ran out"),
        (f"{start}Segmentation fault. ", r"died (Segmentation fault)"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "memory ran out"),
    ):
        assert words in str(lost_worker(RuntimeError(error)))
    assert lost_worker(RuntimeError("a bug of ours")) is None and lost_worker(None) is None


def too_large(numbers: list[int]) -> dict[str, list[torch.Tensor]]:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))  # of shared memory too
    return {"pixels": [torch.zeros(1 << 20)]}


@pytest.mark.slow
def test_shared_memory_that_takes_nothing_is_an_error_and_no_hang() -> None:
    with pytest.raises(UserError, match=r"/dev/shm: cannot take a batch; data\.workers=0 does without: "):
        next(in_workers(too_large, endless, 1, 2))


def test_an_error_of_a_worker_keeps_its_line() -> None:
    def fail(numbers: list[int]) -> int:
        raise UserError("photos/caf\udce9.jpg: image file is truncated")

    for workers in (0, 1):
        with pytest.raises(UserError, match=r"photos/caf\udce9\.jpg: image file is truncated"):
            next(in_workers(fail, endless, workers, 2))


def interrupted(told: Path) -> None:
    os.setsid()  # a terminal interrupts all processes of a command at once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sys.stderr = told.open("w", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)

    def main() -> None:
        for number, _ in enumerate(in_workers(slowly, endless, 2, 2)):
            if number == 20:
                told.with_suffix(".reading").touch()

    run_cli(main)


def slowly(numbers: list[int]) -> list[int]:
    time.sleep(0.01)
    return numbers


@pytest.mark.slow
def test_ctrl_c_is_one_line_with_workers_too(tmp_path: Path) -> None:
    command = multiprocessing.get_context("fork").Process(target=interrupted, args=(tmp_path / "told",))
    command.start()
    while command.is_alive() and not (tmp_path / "told.reading").exists():
        time.sleep(0.02)
    assert command.pid is not None
    os.killpg(command.pid, signal.SIGINT)
    command.join()
    assert (command.exitcode, (tmp_path / "told").read_text()) == (130, "interrupted\n")


def ignores_interrupts(numbers: list[int]) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_workers_leave_ctrl_c_to_their_parent() -> None:
    """Each would print a traceback of its own, wherever the interrupt meets it outside of torch's loop."""
    assert list(in_workers(ignores_interrupts, lambda: [[0], [1], [2], [3]], 2, 2)) == [True] * 4
