"""Checkpoints of versions before the format of `manifest`: DeepSpeed's pickles. They are not read, only known."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from common.training.stored.manifest import MANIFEST

CONVERTER = "python -m scripts.convert_checkpoint"


def is_pickled(folder: Path) -> bool:
    """Whether an earlier version wrote the checkpoint `folder`: engines' folders and `state_rank00000.pt`."""
    return not (folder / MANIFEST).exists() and any(
        (*folder.glob("state_rank*.pt"), *folder.glob("*/*_model_states.pt"))
    )


def refuse_pickled(folder: Path) -> None:
    """Raises `UserError`, which names the command that converts it."""
    if is_pickled(folder):
        raise UserError(
            f"{folder}: written by an earlier version, as pickle, which is not read; "
            f"`{CONVERTER} {folder.parent.parent}` converts it"
        )
