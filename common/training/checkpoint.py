"""The checkpoints of a run: whole or absent, verified, and the newest whole one is never removed.

Every rank writes its share of the tensors into a hidden folder; rank 0 adds the record and, last, the manifest with the
size and hash of every file. The folder is flushed to disk and renamed; only then does `latest` name it and are old ones
removed. Whatever interrupts that (a kill, a full disk), the last whole one is still there.

    RUN/checkpoints/latest                 name of the newest checkpoint
    RUN/checkpoints/step_00001000/         see `stored.manifest`
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from common import dist
from common.config import Count, configclass
from common.errors import UserError
from common.files import partial_of, remove_folder, settle_folder, start_folder, write_text, writing
from common.training.stored.background import BackgroundWriter
from common.training.stored.manifest import RECORD, Files, step_folder, step_of, stored_file, write_manifest
from common.training.stored.reading import CONVERTED, LATEST, Checkpoint, newest_whole, steps_in
from common.training.stored.share import Own, Tensors, all_files, write_share

SEEN_WITHIN = 15.0
"""Seconds until a machine must see what another wrote: network disks keep lists of names for a few."""


@configclass
class CheckpointConfig:
    """How often a run is saved, and what stays.

    Args:
        save_every: steps between checkpoints. The last step is always saved.
        keep: how many of the newest stay.
        keep_every: checkpoints of multiples of these steps stay for good, beside the newest.
        background: write while training goes on, as far as there is memory for a copy: 12 bytes a parameter (and 4 for
            its average), shared out over all ranks. What has no room is written before training goes on.
        best: a score of the held-out set; the checkpoint whose evaluation gave the best one stays, too (`best.py`).
    """

    save_every: Count
    keep: Count = 2
    keep_every: Count | None = None
    background: bool = True
    best: str | None = None

    def __post_init__(self) -> None:
        if self.keep_every is not None and self.keep_every % self.save_every:
            raise ValueError(f"keep_every: expected a multiple of save_every ({self.save_every})")


class Checkpoints:
    """The checkpoints of one run. All methods are called by all ranks together.

    Args:
        folder: `RUN/checkpoints`; RUN is there.
        keep, keep_every, background: as in `CheckpointConfig`.

    Attributes:
        protected: further checkpoints that are not removed; read on rank 0 after each save.
    """

    def __init__(
        self, folder: Path, keep: int, keep_every: int | None = None, background: bool = False
    ) -> None:
        self.folder, self.keep, self.keep_every, self.background = folder, keep, keep_every, background
        self.protected: set[Path] = set()
        self._damaged: set[Path] = set()
        self._whole: Path | None = None
        self._writer: BackgroundWriter | None = None
        self._prepared = self._there = False

    @classmethod
    def of(cls, run: Path, config: CheckpointConfig) -> Checkpoints:
        """Those of `run`, by its recipe."""
        return cls(run / "checkpoints", config.keep, config.keep_every, config.background)

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from: the newest that is whole; None if the run has none yet.

        What is not whole is told in a line, file and fault, before an older one is taken.

        Raises:
            UserError: there are checkpoints, and none of them is whole or of this format; or not all ranks see the
                folder, or it cannot be written.
        """
        self.wait()
        self._prepare()
        found = newest_whole(self.folder)
        self._there = self.folder.is_dir()
        if found is not None and CONVERTED in found.record:
            raise UserError(
                f"{found.path}: converted: holds weights and no optimizer; make a model of it with "
                f"`vqrae export {self.folder.parent}`, and name that in init_from"
            )
        if found is not None:
            self._whole = found.path
            newer = [path for path in steps_in(self.folder) if path.name != found.path.name]
            self._damaged = {path for path in newer if (step_of(path.name) or 0) > found.step}
        return found

    def save(self, step: int, tensors: Tensors, record: dict[str, Any]) -> Path:
        """Write a checkpoint, or begin to, in the background; returns its folder. The one before is waited for.

        Args:
            tensors: every key once, in one order on all ranks; the tensor on the one rank that is to write it, None
                on the others. May be collectives.
            record: all else, as JSON; rank 0's is written.

        Raises:
            UserError: some rank could not write; on all ranks, and what was there before is untouched.
        """
        self.wait()
        self._prepare()
        final = self.folder / step_folder(step)
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        own = Own(tensors)

        def publish(shares: list[Files]) -> None:
            self._publish(final, all_files(shares, own.keys), text)

        try:
            dist.from_main(lambda: self._start(final))
            if self.background:
                given = publish if dist.is_main() else None
                self._writer = BackgroundWriter(final, dist.rank(), dist.world(), own, given)
                return final
            shares = _written(partial_of(final), own)
            dist.from_main(lambda: publish(shares))
        except UserError as error:
            raise self._given_up(final, str(error)) from error
        self._whole = final
        return final

    def poll(self) -> None:
        """Once a step: has the checkpoint that is being written failed? Costs nothing, and is no collective.

        Raises:
            UserError: it has, on this rank; the last whole one is untouched.
        """
        if self._writer is not None and self._writer.error is not None:
            raise self._given_up(self._writer.final, _said(self._writer.error)) from self._writer.error

    def wait(self) -> None:
        """Until the checkpoint that is being written is one.

        Raises:
            UserError: it could not be written on some rank; on all ranks, and the last whole one is untouched.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        share = writer.own_share()
        found = dist.gather_objects((share, writer.error and _said(writer.error)))
        failed = next((line for _, line in found if line is not None), None)
        writer.finish([share for share, _ in found] if failed is None else None)
        failed = failed or dist.gather_objects(writer.error and _said(writer.error))[0]
        if failed is not None:
            raise self._given_up(writer.final, failed) from writer.error
        self._whole = writer.final

    def _start(self, final: Path) -> None:
        if self._there and not self.folder.is_dir():
            raise UserError(f"{self.folder}: gone since the run began; nothing can be saved there")
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        self._there = True
        for left in (*self.folder.glob(".step_*.partial"), *self.folder.glob(".step_*.former")):
            shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
        start_folder(final)

    def _publish(self, final: Path, files: Files, record: str) -> None:
        """Rank 0, once all shares are on disk."""
        partial = partial_of(final)
        write_text(partial / RECORD, record)
        files[RECORD] = stored_file(partial / RECORD)
        write_manifest(partial, step_of(final.name) or 0, files)
        settle_folder(final)
        write_text(self.folder / LATEST, final.name + "\n")
        self._damaged.discard(final)
        self._rotate(final)

    def _rotate(self, newest: Path) -> None:
        step = step_of(newest.name) or 0
        older = [path for path in steps_in(self.folder) if (step_of(path.name) or 0) < step]
        kept = [path for path in older if path not in self._damaged][: self.keep - 1]
        for path in older:
            if path not in kept and path not in self.protected and not self._milestone(path):
                remove_folder(path)

    def _milestone(self, path: Path) -> bool:
        return bool(self.keep_every) and (step_of(path.name) or 0) % (self.keep_every or 1) == 0

    def _prepare(self) -> None:
        """Once, before anything is read or written: do all ranks see the same folder, and can it be written?"""
        if self._prepared:
            return
        token = dist.from_main(self._leave_token)
        seen = _appears(token)
        missing = [rank for rank, sees in enumerate(dist.gather_objects(seen)) if not sees]
        if dist.is_main():
            token.unlink(missing_ok=True)
        if missing:
            raise UserError(
                f"{self.folder.parent}: rank {missing[0]} does not see what rank 0 writes there; "
                "`output` must be on a disk that all machines share"
            )
        self._prepared = True

    def _leave_token(self) -> Path:
        """Where all ranks look for it: in RUN, since a folder of checkpoints says that there is something to resume."""
        token = self.folder.parent / f".seen_by_all_{uuid.uuid4().hex[:8]}.partial"
        with writing(self.folder.parent):
            token.touch()
        return token

    def _given_up(self, final: Path, said: str) -> UserError:
        if dist.is_main():
            shutil.rmtree(partial_of(final), ignore_errors=True)
        kept = (
            f"the last whole checkpoint is {self._whole}" if self._whole else "there is no earlier checkpoint"
        )
        return UserError(f"{said}; {kept}")


def _written(partial: Path, own: Own) -> list[Files]:
    """The shares of all ranks, on disk."""
    share: Files = {}
    said = None
    try:
        share = write_share(partial, dist.rank(), own)
    except UserError as error:
        said = _said(error)
        own.drain()
    found = dist.gather_objects((share, said))
    for _, line in found:
        if line is not None:
            raise UserError(line)
    return [share for share, _ in found]


def _said(error: BaseException) -> str:
    return f"{error if isinstance(error, UserError) else repr(error)}, on rank {dist.rank()}"


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
