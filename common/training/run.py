"""A run's folder, in one layout for all three trainers.

RUN/config.yaml         the resolved recipe
RUN/versions.json       what it ran on
RUN/metrics.jsonl       one record a line: step, kind, values
RUN/pictures/           grids of original | reconstruction, or samples
RUN/tensorboard/        the same numbers for TensorBoard
RUN/checkpoints/        to resume from (see `checkpoint`)
RUN/model/              the result: a folder for `from_pretrained`
RUN/exports/            the same of checkpoints in between (`vqrae export`)
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from common import dist
from common.config import dump_config
from common.errors import UserError, refusing
from common.files import whole_folder, write_json, write_text

REPORTED = (
    "vqrae",
    "torch",
    "torchvision",
    "transformers",
    "deepspeed",
    "timm",
    "datasets",
    "peft",
    "accelerate",
)


def open_run(folder: str, resume: bool) -> Path:
    """Make the run's folder (rank 0).

    Raises:
        UserError: it holds a run already and `resume` is false, or it cannot be made.
    """
    path = Path(folder)
    if not resume and (path / "checkpoints").is_dir():
        raise UserError(f"{path}: holds a run already; choose another output, remove it, or set resume=true")
    if dist.is_main():
        with refusing(f"{path}: output: cannot be made", OSError):
            path.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    return path


def record_run(run: Path, config: Any) -> None:
    """Write config and versions (rank 0), once it is known that the recipe fits what stands there.

    Raises:
        UserError: they cannot be written.
    """
    if dist.is_main():
        write_text(run / "config.yaml", dump_config(config))
        write_json(run / "versions.json", versions())


def leave_model(folder: Path, model: Any) -> None:
    """Write `RUN/model`, or an export in its place, whole or not at all (rank 0); `model` has `save_pretrained`.

    Raises:
        UserError: it could not be written; what was there before is untouched.
    """
    if dist.is_main():
        with whole_folder(folder) as partial:
            model.save_pretrained(partial)
    dist.barrier()


def versions(packages: Iterable[str] = REPORTED) -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
