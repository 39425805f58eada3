"""A checkpoint is written while training goes on.

A rank's share is copied to memory, and a thread writes it. It takes part in no collective, which would meet those of
training: a rank leaves a mark in the unfinished folder once its share is on disk, and rank 0's thread looks for all
marks before it writes the manifest.
"""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.files import partial_of, write_json
from common.training.stored.manifest import Files, StoredFile
from common.training.stored.memory import room_for
from common.training.stored.share import Own, write_share

LOOK_EVERY = 0.5
"""Seconds between rank 0's looks for the marks of the others."""
AT_EXIT = 30.0
"""Seconds that the end of the process waits for a checkpoint, even where an error ends it."""

Share = Iterable[tuple[str, Tensor]]


class BackgroundWriter:
    """Writes one checkpoint.

    Args:
        final: what the checkpoint will be called.
        tensors: this rank's share; read to the end before this returns. What has no room in memory is written at once.
        publish: on rank 0, given the shares of all ranks, makes the folder a checkpoint; runs in the thread.

    Attributes:
        error: why it failed; None while it has not.
    """

    def __init__(
        self,
        final: Path,
        rank: int,
        world: int,
        tensors: Own,
        publish: Callable[[list[Files]], None] | None,
    ) -> None:
        self.final, self.rank, self.world, self.publish = final, rank, world, publish
        self.partial = partial_of(final)
        self.error: BaseException | None = None
        self.share: Files | None = None
        self._written, self._told = threading.Event(), threading.Event()
        self._shares: list[Files] | None = None
        self._staged: list[tuple[str, Tensor]] = []
        self._stage(tensors)
        # A daemon, so that the end of the process waits for it no longer than it says.
        self._thread = threading.Thread(target=self._work, name=f"writes {final.name}", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def _stage(self, tensors: Own) -> None:
        self._staged, rest = copied(tensors)
        if rest is not None:
            try:
                self.share = write_share(self.partial, self.rank, chain(self._handed_over(), rest))
            except UserError as error:
                self.error = error
                tensors.drain()

    def own_share(self) -> Files | None:
        """Wait until this rank's share is on disk; None if it could not be written (`error`)."""
        self._written.wait()
        return self.share if self.error is None else None

    def finish(self, shares: list[Files] | None) -> None:
        """All have been heard: publish what they wrote (rank 0), or give up where one failed (None)."""
        self._shares = shares
        self._told.set()
        self._thread.join()
        atexit.unregister(self._at_exit)

    def _work(self) -> None:
        try:
            if self.error is not None:
                return
            if self.share is None:
                self.share = write_share(self.partial, self.rank, self._handed_over())
            if self.publish is None:
                write_json(mark(self.partial, self.rank), [_stated(self.share)])
            self._written.set()
            if self.publish is not None and (shares := self._all_shares()) is not None:
                for rank in range(1, self.world):
                    mark(self.partial, rank).unlink(missing_ok=True)
                self.publish(shares)
        except BaseException as error:
            self.error = error
        finally:
            self._staged.clear()
            self._written.set()

    def _handed_over(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor's memory is free as soon as its file is written."""
        self._staged.reverse()
        while self._staged:
            yield self._staged.pop()

    def _all_shares(self) -> list[Files] | None:
        assert self.share is not None
        shares = [self.share]
        while len(shares) < self.world:
            path = mark(self.partial, len(shares))
            if path.exists():
                (stated,) = json.loads(path.read_text(encoding="utf-8"))
                shares.append({name: StoredFile(**file) for name, file in stated.items()})
            elif self._told.wait(LOOK_EVERY):
                return self._shares
        return shares

    def _at_exit(self) -> None:
        self._thread.join(AT_EXIT)


def mark(partial: Path, rank: int) -> Path:
    """What says that the share of `rank` is on disk: its files, with sizes and hashes."""
    return partial / f"written_rank{rank:05d}.json"


def copied(tensors: Share) -> tuple[list[tuple[str, Tensor]], Share | None]:
    """Copies in this machine's memory, and the rest, if there was no room for all."""
    staged: list[tuple[str, Tensor]] = []
    given = iter(tensors)
    for key, tensor in given:
        if not room_for(tensor.nbytes):
            return staged, chain([(key, tensor)], given)
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        staged.append((key, copy.copy_(tensor.detach())))
    return staged, None


def _stated(share: Files) -> dict[str, object]:
    return {name: asdict(file) for name, file in share.items()}
