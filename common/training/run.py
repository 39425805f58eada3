"""A run's folder, in one layout for all three trainers.

RUN/config.yaml         the resolved recipe
RUN/versions.json       what it ran on
RUN/metrics.jsonl       one record a line: step, kind, values
RUN/pictures/           grids of original | reconstruction, or samples
RUN/tensorboard/        the same numbers for TensorBoard
RUN/checkpoints/        to resume from (see `checkpoint`)
RUN/model/              the result: a folder for `from_pretrained`
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from common import dist
from common.config import dump_config
from common.errors import UserError, one_line

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
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: output: cannot be made: {error.strerror}") from error
    dist.barrier()
    return path


def record_run(run: Path, config: Any) -> None:
    """Write config and versions (rank 0), once it is known that the recipe fits what stands there.

    Raises:
        UserError: they cannot be written.
    """
    if dist.is_main():
        try:
            (run / "config.yaml").write_text(dump_config(config), encoding="utf-8")
            (run / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{run}: output: cannot be written: {error.strerror}") from error


def finish_run(run: Path, model: Any) -> None:
    """Write `RUN/model` whole or not at all (rank 0); `model` has `save_pretrained`.

    Raises:
        UserError: it could not be written; the run's checkpoints are untouched.
    """
    if dist.is_main():
        final, partial = run / "model", run / ".model.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            model.save_pretrained(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"{final}: could not be saved: {one_line(error)}") from error
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
