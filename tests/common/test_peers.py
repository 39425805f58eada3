"""Who of several processes failed, died or hangs, and that one of them says so."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

from common.peers import Peers, ProcessConfig
from common.stacks import describe_stand_still, place_of_main_thread


class Ended:
    """Stands for the end of a process: remembers its exit code, and lets a test wait for it."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.event = threading.Event()

    def __call__(self, code: int) -> None:
        self.code = code
        self.event.set()


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three `Peers` of one run, in one process, with what became of each."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr("common.peers.GRACE", 0.2)
    monkeypatch.setattr("common.peers.QUIET", 0.2)
    limits = ProcessConfig(silent_after=1.0, stuck_after=1.0)
    meeting = threading.Barrier(3)
    values: list[Any] = [None] * 3
    peers: list[Any] = [None] * 3
    ends = [Ended() for _ in range(3)]

    def meet(rank: int) -> None:
        def exchange(value: Any) -> list[Any]:
            values[rank] = value
            meeting.wait()
            found = list(values)
            meeting.wait()
            return found

        peers[rank] = Peers(rank, 3, limits, exchange, speaks=rank == 1, end=ends[rank])

    threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield peers, ends
    for peer in peers:
        peer.close()


def die(peer: Peers) -> None:
    """What the system does to the connections of a process that is killed."""
    for link in peer._links.values():
        link.socket.shutdown(socket.SHUT_RDWR)
    peer._closing.set()


def wait(*ends: Ended) -> list[int | None]:
    assert all(end.event.wait(20) for end in ends)
    return [end.code for end in ends]


def test_a_process_that_is_killed_is_named_by_rank_0(three: Any, capfd: pytest.CaptureFixture[str]) -> None:
    peers, ends = three
    die(peers[2])
    assert wait(ends[0], ends[1]) == [3, 3]
    said = capfd.readouterr().err
    assert said.count("error: ") == 1 and "rank 2 (process " in said and "is gone without a word" in said


def test_the_end_of_rank_0_is_told_once_on_a_machine(three: Any, capfd: pytest.CaptureFixture[str]) -> None:
    peers, ends = three
    die(peers[0])
    assert wait(ends[1], ends[2]) == [3, 3]
    assert capfd.readouterr().err.count("error: rank 0 is gone") == 1


def test_a_process_without_a_sign_of_life_is_found(
    three: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, ends = three
    monkeypatch.setattr(peers[1], "_beat", lambda: None)
    peers[1].limits = ProcessConfig(silent_after=1000.0)
    assert wait(ends[0], ends[2]) == [3, 3]
    assert "rank 1 (process " in (said := capfd.readouterr().err) and "no sign of life for 1 s" in said


def test_processes_that_stand_still_are_told_apart(three: Any, capfd: pytest.CaptureFixture[str]) -> None:
    peers, ends = three
    for peer in peers:
        peer.step = 7
    assert wait(*ends) == [3, 3, 3]  # this thread waits, and moves no more
    said = capfd.readouterr().err
    assert said.count("error: ") == 1 and "step 7: nothing moves" in said and "ranks 0, 1, 2: at " in said


def test_outside_of_training_standing_still_is_no_fault(three: Any) -> None:
    _, ends = three
    assert not ends[0].event.wait(2.5)


def test_the_first_error_is_told_and_what_follows_from_it_is_not(three: Any) -> None:
    peers, ends = three
    told: dict[int, bool] = {}

    def fail(rank: int, message: str, consequence: bool) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: told.update({rank: peers[rank].failed(message, consequence)})
        )
        thread.start()
        return thread

    waiting = [fail(0, "Connection closed by peer", True), fail(1, "a.png: damaged", False)]
    for thread in waiting:
        thread.join()
    assert told == {0: False, 1: True}
    assert wait(ends[0], ends[2]) == [3, 3]
    assert ends[1].code is None  # it ends by itself, with its own code


@pytest.mark.parametrize(("message", "speaks"), [("a.png: damaged", False), ("b.png: damaged", True)])
def test_the_same_error_is_told_once(three: Any, message: str, speaks: bool) -> None:
    peers, _ = three
    assert peers[2].failed("a.png: damaged", False)
    assert peers[1].failed(message, False) is speaks


def test_a_process_that_is_asked_to_end_ends_the_others_without_a_fault(
    three: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    peers, ends = three
    peers[2].stopped("stopped (SIGTERM)")
    assert wait(ends[0], ends[1]) == [0, 0]
    assert "error" not in capfd.readouterr().err


def test_those_that_do_not_wait_for_others_are_named_first() -> None:
    waiting = ["torch/distributed/distributed_c10d.py:3 all_reduce@10", "common/dist.py:9 sum_@4"]
    reading = ["/usr/lib/python3.11/selectors.py:1 select@2", "common/data/workers.py:44 in_workers@8"]
    said = describe_stand_still({0: waiting, 1: waiting, 2: reading, 3: waiting})
    assert said == (
        "rank 2: at /usr/lib/python3.11/selectors.py:1 select in common/data/workers.py:44 in_workers; "
        "ranks 0, 1, 3: waiting in torch/distributed/distributed_c10d.py:3 all_reduce in common/dist.py:9 sum_"
    )


def test_work_is_seen_to_move() -> None:
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add("".join(place_of_main_thread()))

    thread = threading.Thread(target=look)
    thread.start()
    end = time.monotonic() + 20
    while len(seen) < 4 and time.monotonic() < end:
        json.loads(json.dumps({"a": [str(number) for number in range(50)]}, indent=1))
    done.set()
    thread.join()
    assert len(seen) >= 4


def joined(monkeypatch: pytest.MonkeyPatch, store: Any, restart: str) -> dict[str, Any]:
    """What the process group of a run is made with."""
    import deepspeed

    from common import dist

    asked: dict[str, Any] = {}
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
    monkeypatch.setattr(dist.torch_dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist.torch_dist, "rendezvous", lambda *_, **__: iter([(store, 0, 1)]))
    monkeypatch.setattr(dist.torch_dist, "init_process_group", lambda *_, **named: asked.update(named))
    monkeypatch.setattr(deepspeed, "init_distributed", lambda *_, **__: None)
    dist.start(ProcessConfig(collective_timeout=77.0))
    return asked


@pytest.mark.slow
def test_the_timeout_of_collectives_is_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joined(monkeypatch, HashStore(), "0")["timeout"] == timedelta(seconds=77)


@pytest.mark.slow
def test_a_restart_does_not_find_the_addresses_of_those_that_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torchrun's static rendezvous (`--master-port`) keeps them: one store over all restarts."""
    kept = HashStore()
    joined(monkeypatch, kept, "0")["store"].set("0/rank 1", "127.0.0.1:1")
    again = joined(monkeypatch, kept, "1")["store"]
    assert not again.check(["0/rank 1"])
    again.set("0/rank 1", "127.0.0.1:2")
    assert joined(monkeypatch, kept, "0")["store"].get("0/rank 1") == b"127.0.0.1:1"


@pytest.mark.slow
def test_no_run_meets_the_memory_that_a_killed_one_has_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What DeepSpeed's launcher does at every start: the same port, unless it is told another one."""
    import deepspeed

    from common import dist, host_memory

    monkeypatch.setattr(host_memory, "SEGMENTS", tmp_path)
    monkeypatch.setattr(dist.torch_dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "_join", lambda *_: None)
    monkeypatch.setenv("MASTER_PORT", "29500")
    found: list[str] = []

    def meet(*_: Any, **__: Any) -> None:  # the name that shm.cpp makes
        name = f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_{os.environ['MASTER_PORT']}_0"
        assert not (tmp_path / name).exists()
        (tmp_path / name).touch()
        found.append(name)

    monkeypatch.setattr(deepspeed, "init_distributed", meet)
    for _ in range(2):
        dist.start()
        assert os.environ["MASTER_PORT"] == "29500" and not list(tmp_path.iterdir())
    meet()  # of another port, and of a run that was killed
    dist.start()
    assert list(tmp_path.iterdir()) == [tmp_path / found[2]] and len(set(found)) == 4
