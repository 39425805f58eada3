"""Worker processes that decode images, on top of `torch.utils.data.DataLoader`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from common.errors import UserError, refusing

Part = TypeVar("Part")


def in_workers(
    load: Callable[[list[int]], Part],
    plan: Callable[[], Iterable[list[int]]],
    workers: int,
    prefetch: int,
    pin: bool = False,
) -> Iterator[Part]:
    """`load(numbers)` for each list of the plan, in order, computed `prefetch` lists ahead per worker.

    List n goes to worker n mod `workers`. With `workers` 0 all happens in this process, when it is asked for. With
    `pin`, and a GPU, tensors come in pinned memory, from which they move to it beside what it computes.

    Raises:
        UserError: as `load` raised it; a DataLoader would make a traceback of its message.
    """
    loader: DataLoader[Part | UserError] = DataLoader(
        _Loading(load),
        sampler=_Plan(plan),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin and torch.cuda.is_available(),
        # Fork starts at once and shares the file tables; macOS libraries do not survive it.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # Else each start of an iteration draws from the global generator, and a resumed run differs from then
        # on.
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_parent,
    )
    for part in loader:
        if isinstance(part, UserError):
            raise part
        yield part


class _Loading(Dataset[Any], Generic[Part]):
    def __init__(self, load: Callable[[list[int]], Part]) -> None:
        self._load = load

    def __getitem__(self, numbers: list[int]) -> Part | UserError:  # type: ignore[override]
        try:
            return _shared(self._load(numbers))
        except UserError as error:
            return error


class _Plan(Sampler[Any]):
    def __init__(self, plan: Callable[[], Iterable[list[int]]]) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._plan())


def _shared(part: Part) -> Part:
    """In a worker, its tensors in shared memory. The queue would move them there too, in a thread of its own, and where
    that fails the batch would never come."""
    if get_worker_info() is not None:
        with refusing("/dev/shm: cannot take a batch; data.workers=0 does without", RuntimeError, OSError):
            _share(part)
    return part


def _share(value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value.share_memory_()
    elif isinstance(value, Mapping):
        for item in value.values():
            _share(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _share(item)


def _leave_signals_to_parent(worker: int) -> None:
    """A launcher signals whole groups of processes. Where the parent takes a signal as a request, its workers go on
    until the parent itself ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if callable(signal.getsignal(signal.SIGUSR1)):  # inherited; torch has replaced that of SIGTERM
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, name="SIGTERM", daemon=True).start()


def _obey_parent() -> None:
    # A process that exits ends its workers by SIGTERM and waits for them: to ignore it would be for ever.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _unchanged(part: Part) -> Part:
    return part
