"""Shared by all tests: photographs where there are some, and one pair of processes for everything distributed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pair_jobs, tiny: what tests share

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two processes on two cores; and sums in a fixed order, which the bit-equality tests rely on.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow without a word: what takes the pair, and files that import `train` or `extract` to run them."""
    for item in items:
        module = getattr(item, "module", None)
        runs = any(inspect.isfunction(getattr(module, name, None)) for name in ("train", "extract"))
        if runs or "pair" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Only a slow test may start a process group: the first on a machine compiles operators for a minute."""
    with pytest.MonkeyPatch.context() as patch:
        if "common.dist" in sys.modules and not item.get_closest_marker("slow"):
            patch.setattr("common.dist.start", _refuse)
        return (yield)


def _refuse() -> None:
    raise AssertionError("this test trains or extracts codes: mark it with pytest.mark.slow")


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of real photographs that `VQRAE_TEST_DATA` names."""
    folder = os.environ.get("VQRAE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real photographs: VQRAE_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of data indices."""
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


class Pair:
    """Two processes that have imported everything once and run functions of `pair_jobs` together."""

    def __init__(self) -> None:
        listener = Listener()
        port = _free_port()
        tests = str(Path(__file__).parent)
        code = f"import sys; sys.path[:0] = [{tests!r}]; import conftest; conftest.work({listener.address!r})"
        self.processes = []
        for rank in range(2):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "PAIR_KEY": "vqrae",
            }
            self.processes.append(subprocess.Popen([sys.executable, "-c", code], env=environment))
        connections = [listener.accept() for _ in range(2)]
        self.connections = [c for _, c in sorted((c.recv(), c) for c in connections)]

    def run(self, job: str, **arguments: Any) -> list[Any]:
        """`pair_jobs.<job>(**arguments)` on both ranks; their results, or the first error, in rank order."""
        for connection in self.connections:
            connection.send((job, arguments))
        results = [connection.recv() for connection in self.connections]
        for rank, (failure, _) in enumerate(results):
            assert failure is None, f"rank {rank}: {failure}"
        return [value for _, value in results]

    def close(self) -> None:
        for connection in self.connections:
            connection.send(None)
        for process in self.processes:
            process.wait(timeout=60)


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    workers = Pair()
    yield workers
    workers.close()


def work(address: Any) -> None:
    """The body of one process of the pair."""
    import traceback

    connection = Client(address)
    import pair_jobs

    from common import dist

    dist.start()
    connection.send(dist.rank())
    while (message := connection.recv()) is not None:
        job, arguments = message
        try:
            connection.send((None, getattr(pair_jobs, job)(**arguments)))
        except BaseException:
            connection.send((traceback.format_exc(), None))
    dist.barrier()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
