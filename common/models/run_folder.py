"""A training run's folder in the place of a model: which model that is. Told by its layout (`training/run.py`)."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError


def is_run(folder: Path) -> bool:
    """Whether this is the folder of a run: it has a recipe and checkpoints, and is no model itself."""
    return (
        (folder / "config.yaml").is_file()
        and (folder / "checkpoints").is_dir()
        and not (folder / "config.json").exists()
    )


def model_of(folder: Path) -> Path:
    """`folder` itself, or the model of the run whose folder it is: the one that its end has left.

    Raises:
        UserError: the run has not ended yet, or has gone on since; names the command that makes a model of it.
    """
    if not is_run(folder):
        return folder
    model, newest = folder / "model", folder / "checkpoints" / "latest"
    if not model.is_dir():
        raise UserError(
            f"{folder}: a run that has left no model yet; `vqrae export {folder}` makes one of its newest checkpoint"
        )
    if newest.is_file() and newest.stat().st_mtime > model.stat().st_mtime:
        raise UserError(
            f"{folder}: the run went on after it had left {model}; name that folder, or `vqrae export {folder}` makes "
            "one of its newest checkpoint"
        )
    return model
