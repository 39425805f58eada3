"""Checkpoints that are whole or absent.

A checkpoint is written into a temporary folder, flushed to disk and renamed; only then does `latest` name it
and are old ones removed. Whatever interrupts that (a kill, a full disk), the last whole one is still there.

    RUN/checkpoints/latest                 name of the newest whole checkpoint
    RUN/checkpoints/step_00001000/         engines' folders and state_rank00000.pt per rank
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from common import dist
from common.config import configclass
from common.errors import UserError, one_line
from common.files import partial_of, whole_folder, write_text, writing

LATEST = "latest"


@configclass
class CheckpointConfig:
    """Steps between checkpoints and how many of the newest stay."""

    save_every: int
    keep: int = 2


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `RUN/checkpoints`.
        keep: how many of the newest to keep, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def latest(self) -> Path | None:
        """The newest whole checkpoint, if there is one.

        Raises:
            UserError: `latest` names a folder that is gone.
        """
        pointer = self.folder / LATEST
        if not pointer.is_file():
            return None
        path = self.folder / pointer.read_text().strip()
        if not path.is_dir():
            raise UserError(
                f"{pointer}: names {path.name}, which is not there; restore it or remove the pointer"
            )
        return path

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Called by all ranks together.

        Args:
            write: writes the shared parts (engines, model folder) into the folder it is given; called on all ranks.
            state: this rank's own small state (random numbers, data position, moving averages).

        Raises:
            UserError: it could not be written on some rank; what was there before is untouched.
        """
        final = self.folder / f"step_{step:08d}"
        partial = partial_of(final)
        try:
            with whole_folder(final) if dist.is_main() else nullcontext(), writing(final):
                dist.barrier()
                partial.mkdir(exist_ok=True)
                torch.save(state, partial / state_file(dist.rank()))
                write(partial)
                dist.barrier()
        except UserError as error:
            # No collective from here on: the other ranks may be inside the engine's own. The launcher ends them.
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.latest()
            raise UserError(
                f"{error}, on rank {dist.rank()}; "
                + (f"the last whole checkpoint is {kept}" if kept else "there is no earlier checkpoint")
            ) from error
        if dist.is_main():
            write_text(self.folder / LATEST, final.name + "\n")
            self._rotate(final)
        dist.barrier()
        return final

    def _rotate(self, newest: Path) -> None:
        whole = sorted(path for path in self.folder.glob("step_*") if path.is_dir() and path != newest)
        for old in whole[: max(0, len(whole) - (self.keep - 1))]:
            shutil.rmtree(old, ignore_errors=True)


def state_file(rank: int) -> str:
    return f"state_rank{rank:05d}.pt"


def read_state(checkpoint: Path, rank: int) -> dict[str, Any]:
    """The small state that `rank` saved.

    Raises:
        UserError: no such file (another number of ranks), or it cannot be read.
    """
    path = checkpoint / state_file(rank)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        saved = len(list(checkpoint.glob("state_rank*.pt")))
        raise UserError(
            f"{path}: absent; the checkpoint was saved by {saved} ranks, resume with as many"
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
