"""Checkpoints that are whole or absent.

A checkpoint is written into a temporary folder, flushed to disk and renamed; only then does `latest` name it
and are old ones removed. Whatever interrupts that (a kill, a full disk), the last whole one is still there.

    RUN/checkpoints/latest                 name of the newest whole checkpoint
    RUN/checkpoints/step_00001000/         engines' folders and state_rank00000.pt per rank
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import dist
from common.config import configclass
from common.errors import UserError, one_line

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
        partial = self.folder / f".{final.name}.partial"
        if dist.is_main():
            shutil.rmtree(partial, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        try:
            partial.mkdir(exist_ok=True)
            torch.save(state, partial / state_file(dist.rank()))
            write(partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            # No collective from here on: the other ranks may be inside the engine's own. The launcher ends them.
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.latest()
            raise UserError(
                f"{final}: could not be saved on rank {dist.rank()} ({one_line(error)}); "
                + (f"the last whole checkpoint is {kept}" if kept else "there is no earlier checkpoint")
            ) from error
        dist.barrier()
        if dist.is_main():
            _flush(partial)
            shutil.rmtree(final, ignore_errors=True)  # a run that went back to an earlier step
            partial.rename(final)
            _point(self.folder / LATEST, final.name)
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


def random_state() -> dict[str, Any]:
    """This process's torch generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _point(pointer: Path, name: str) -> None:
    partial = pointer.with_name(f".{pointer.name}.partial")
    partial.write_text(name + "\n")
    _flush(partial)
    partial.rename(pointer)


def _flush(path: Path) -> None:
    """Force a file, or all files below a folder, to disk."""
    for item in [path, *path.rglob("*")] if path.is_dir() else [path]:
        handle = os.open(item, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
