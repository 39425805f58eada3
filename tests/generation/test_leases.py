"""Leases: one holder at a time, whoever lives keeps it, whoever died loses it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from common.errors import UserError
from generation.codes.leases import Leases

LONG_AGO = 1e9


def test_one_of_many_has_it(tmp_path: Path) -> None:
    fleet = [Leases(tmp_path) for _ in range(8)]
    got: list[Leases] = []
    start = threading.Barrier(len(fleet))

    def claim(leases: Leases) -> None:
        start.wait()
        if leases.take("a"):
            got.append(leases)

    threads = [threading.Thread(target=claim, args=(leases,)) for leases in fleet]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and not got[0].take("a") and got[0].take("b")
    got[0].give_back("a")
    other = next(leases for leases in fleet if leases is not got[0])
    assert other.take("a") and not other.take("b") and other.living() == [got[0].holder]
    for leases in fleet:
        leases.close()
    assert not list(tmp_path.iterdir())


def test_the_dead_lose_it_to_one(tmp_path: Path) -> None:
    """Their clock may have been an hour or a decade off: what counts is the file system's."""
    dead, first, second = (Leases(tmp_path, stale=50) for _ in range(3))
    assert dead.take("a")
    assert not first.take("a")
    os.utime(tmp_path / "a.0", (LONG_AGO, LONG_AGO))
    assert first.living() == []
    assert first.take("a") and not second.take("a")
    os.utime(tmp_path / "a.1", (LONG_AGO, LONG_AGO))
    assert second.take("a")
    # Who was stopped only, and goes on, does no harm.
    dead.give_back("a")
    assert not first.take("a")
    second.give_back("a")
    assert sorted(path.name for path in tmp_path.glob("a.*")) == []
    for leases in (first, second):
        leases.close()


def test_the_living_keep_it(tmp_path: Path) -> None:
    with Leases(tmp_path, stale=0.4) as slow, Leases(tmp_path, stale=0.4) as quick:
        assert slow.take("a")
        os.utime(tmp_path / "a.0", (LONG_AGO, LONG_AGO))
        deadline = time.monotonic() + 20
        while (tmp_path / "a.0").stat().st_mtime == LONG_AGO and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not quick.take("a")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("in the way")
    with pytest.raises(UserError, match="leases: cannot be written"):
        Leases(tmp_path / "leases")
