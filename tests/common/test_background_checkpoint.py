"""A checkpoint that is written while training goes on is the one of its step, or none."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Pair
from full_disk import full_disk
from torch import Tensor

from common.errors import UserError
from common.training import checkpoint as module
from common.training.checkpoint import CheckpointConfig, Checkpoints
from common.training.stored import background, memory
from common.training.stored.reading import newest_whole


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, keep=1, background=True)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The thread writes nothing before it is set."""
    opened, write = threading.Event(), background.write_share

    def later(*arguments: Any) -> Any:
        assert opened.wait(60)
        return write(*arguments)

    monkeypatch.setattr(background, "write_share", later)
    yield opened
    opened.set()


def steps_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_it_is_of_its_step_though_training_goes_on(checkpoints: Checkpoints, gate: threading.Event) -> None:
    weight = torch.zeros(100)
    checkpoints.save(1, [("weight", weight), ("bfloat16", weight.bfloat16())], {"step": 1})
    weight.fill_(2)
    checkpoints.poll()
    assert steps_of(checkpoints.folder) == [] and newest_whole(checkpoints.folder) is None
    gate.set()
    checkpoints.wait()
    found = checkpoints.newest()
    assert (
        found is not None
        and found.read("weight").sum() == 0
        and found.read("bfloat16").dtype == torch.bfloat16
    )


def test_the_next_save_waits_and_only_then_goes_the_one_before(
    checkpoints: Checkpoints, gate: threading.Event
) -> None:
    for step in (1, 2, 3):
        gate.set()
        checkpoints.wait()
        gate.clear()
        checkpoints.save(step, [("weight", torch.full((3,), float(step)))], {})
        assert steps_of(checkpoints.folder) == (["latest", f"step_{step - 1:08d}"] if step > 1 else [])
    gate.set()
    found = checkpoints.newest()  # waits, too
    assert found is not None and found.step == 3 and found.read("weight").tolist() == [3, 3, 3]


def test_a_disk_that_is_full_by_then(checkpoints: Checkpoints, gate: threading.Event) -> None:
    gate.set()
    checkpoints.save(1, [("weight", torch.zeros(9))], {})
    checkpoints.wait()
    gate.clear()
    with full_disk(500):
        checkpoints.save(2, [("weight", torch.zeros(900))], {})
        checkpoints.poll()  # nothing has happened yet
        gate.set()
        assert checkpoints._writer is not None
        checkpoints._writer._thread.join()
        for end in (checkpoints.poll, checkpoints.wait):
            with pytest.raises(
                UserError, match=r"File too large.*; the last whole checkpoint is .*step_00000001"
            ):
                end()
    assert steps_of(checkpoints.folder) == ["latest", "step_00000001"]
    checkpoints.save(3, [("weight", torch.zeros(900))], {})  # there is room again
    assert checkpoints.newest().step == 3  # type: ignore[union-attr]


def test_a_record_that_does_not_fit_any_more(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors are on disk; what makes them a checkpoint fails."""

    def full(*_: Any) -> None:
        raise UserError("manifest.json: cannot be written: No space left on device")

    monkeypatch.setattr(module, "write_manifest", full)
    checkpoints.save(1, [("weight", torch.zeros(9))], {})
    with pytest.raises(
        UserError, match=r"No space left on device, on rank 0; there is no earlier checkpoint"
    ):
        checkpoints.wait()
    assert steps_of(checkpoints.folder) == [] and not list(checkpoints.folder.iterdir())


def test_a_fault_of_ours_is_not_hidden(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(background, "write_share", fault)
    checkpoints.save(1, [("weight", torch.zeros(9))], {})
    with pytest.raises(UserError, match=r"ZeroDivisionError.*a fault of ours") as error:
        checkpoints.wait()
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("fits", [0, 2])
def test_what_has_no_room_in_memory_is_written_at_once(
    fits: int, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([True] * fits + [False] * 9)
    monkeypatch.setattr(background, "room_for", lambda size: next(left))
    given = [(str(i), torch.full((5,), float(i))) for i in range(4)]
    checkpoints.save(1, given, {})
    assert checkpoints._writer is not None and checkpoints._writer.share is not None
    found = checkpoints.newest()
    assert found is not None and [found.read(str(i))[0] for i in range(4)] == [0, 1, 2, 3]


def test_written_at_once_and_no_disk_either(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tensors are gone through: other ranks may wait in the collectives that bring them."""
    monkeypatch.setattr(background, "room_for", lambda size: False)
    passed: list[str] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in "abc":
            passed.append(name)
            yield name, torch.zeros(1 << 10)

    monkeypatch.setattr("common.training.stored.share.FILE_BYTES", 1 << 12)
    with full_disk(100):
        checkpoints.save(1, tensors(), {})
    assert passed == ["a", "b", "c"]
    with pytest.raises(UserError, match="File too large"):
        checkpoints.poll()


def test_the_end_of_the_process_waits(
    checkpoints: Checkpoints, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Callable[[], object]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    checkpoints.save(1, [("weight", torch.zeros(9))], {})
    assert len(at_exit) == 1 and checkpoints._writer is not None and checkpoints._writer._thread.daemon
    threading.Timer(0.1, gate.set).start()
    at_exit[0]()
    assert newest_whole(checkpoints.folder).step == 1  # type: ignore[union-attr]


def test_recipes_write_in_the_background_unless_they_say_otherwise(tmp_path: Path) -> None:
    for chosen, config in (
        (True, CheckpointConfig(save_every=2)),
        (False, CheckpointConfig(save_every=2, background=False)),
    ):
        made = Checkpoints.of(tmp_path, config)
        assert made.background == chosen and made.keep == 2 and made.folder == tmp_path / "checkpoints"


def test_memory_of_machine_and_job(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       100 kB\nMemFree:  5 kB\nMemAvailable:   40 kB\n")
    assert memory._of_machine(info) == (40 << 10, 100 << 10)
    assert memory._of_machine(tmp_path / "none") is None
    job = tmp_path / "groups" / "jobs" / "7"
    job.mkdir(parents=True)
    membership = tmp_path / "cgroup"
    membership.write_text("0::/jobs/7\n")
    assert memory._of_group(membership, tmp_path / "groups") is None
    for folder, limit in ((job, "max"), (job.parent, "1000")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 1\nactive_file 50\ninactive_file 100\n")
    assert memory._of_group(membership, tmp_path / "groups") == (450, 1000)
    assert memory.room_for(0) and not memory.room_for(1 << 60)


def test_two_ranks_and_one_that_is_late(pair: Pair, tmp_path: Path) -> None:
    for found in pair.run("checkpoint_in_background", folder=str(tmp_path / "a")):
        assert found == {"early": [], "late": 5, "right": True, "names": ["latest", "step_00000005"]}


def test_what_one_rank_cannot_write_ends_both(pair: Pair, tmp_path: Path) -> None:
    for rank in (0, 1):
        folder = tmp_path / str(rank)
        said = pair.run("checkpoint_that_does_not_fit", folder=str(folder), full=rank, background=True)
        assert said[0] == said[1] and f"on rank {rank}; the last whole checkpoint is" in said[0]
        assert steps_of(folder) == ["latest", "step_00000001"]
