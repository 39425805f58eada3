"""A run's folder, in one layout for all three trainers.

RUN/run.json            the run's own id, made at its first start
RUN/config.yaml         the resolved recipe
RUN/recipes/            every recipe it was trained with, and from which step on (see `recipe_change`)
RUN/versions.json       what it ran on
RUN/metrics.jsonl       one record a line: step, kind, values
RUN/pictures/           grids of original | reconstruction, or samples
RUN/tensorboard/        the same numbers for TensorBoard
RUN/checkpoints/        to resume from (see `checkpoint`)
RUN/model/              the result: a folder for `from_pretrained`
RUN/exports/            the same of checkpoints in between (`vqrae export`)
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from common import dist
from common.errors import UserError, refusing
from common.files import whole_folder, write_json
from common.training.recipe_change import keep_recipe

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

LEFT = (
    "config.yaml",
    "metrics.jsonl",
    "model",
    "adapter",
    "pictures",
    "recipes",
    "tensorboard",
    "versions.json",
)
"""What a run writes into its folder, beside checkpoints and what is known by `run.json`."""


def open_run(folder: str, resume: bool) -> Path:
    """Make the run's folder (rank 0).

    Raises:
        UserError: it holds a run already and `resume` is false; it holds somebody else's files under the names of those
            that a run leaves; or it cannot be made.
    """
    path = Path(folder)
    if not resume and (path / "checkpoints").is_dir():
        raise UserError(f"{path}: holds a run already; choose another output, remove it, or set resume=true")
    if not (path / "run.json").is_file() and not (path / "checkpoints").is_dir():
        for name in LEFT:
            if (path / name).exists():
                raise UserError(
                    f"{path / name}: is there already, and no run of VQRAE left it; choose another output, or move it"
                )
    if dist.is_main():
        with refusing(f"{path}: output: cannot be made", OSError):
            path.mkdir(parents=True, exist_ok=True)
            identity(path)
    dist.barrier()
    return path


def identity(run: Path) -> str:
    """The run's id, by which W&B finds it again: its own, whatever its folder is called and wherever it is moved. The
    first call makes it.

    Raises:
        UserError: `run.json` is damaged, or cannot be written.
    """
    path = run / "run.json"
    if not path.is_file():
        write_json(path, {"id": uuid.uuid4().hex[:16]})
    with refusing(f"{path}: cannot be read; remove it, and the run gets a new id"):
        found = json.loads(path.read_text(encoding="utf-8"))["id"]
        if not isinstance(found, str) or not found.isalnum():
            raise ValueError(f"id: expected letters and digits, found {found!r}")
    return found


def record_run(run: Path, config: Any, step: int) -> None:
    """Write config and versions (rank 0), once it is known that the recipe fits what stands there.

    Args:
        step: the steps that are done.

    Raises:
        UserError: they cannot be written.
    """
    if dist.is_main():
        keep_recipe(run, config, step, dist.world())
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
