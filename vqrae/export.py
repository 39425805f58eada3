"""Make a model of a checkpoint: what the run would have left in RUN/model, had it ended there.

    vqrae export RUN
    vqrae export RUN --step 20000 --out FOLDER
    vqrae export RUN model.tower.source=FOLDER

RUN is the folder of a tokenizer's, an understanding's or a generator's training, or of a post-training, which may
still go on: it is only read, and only whole checkpoints are. Without --step it is the newest one. Where the run keeps a
moving average, that is what is written, as at the run's end. Works on one CPU, with memory for about one model.
`key.path=value` says where a model is that the recipe names, if it is elsewhere here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from common.command import positive
from common.errors import UserError, refusing

if TYPE_CHECKING:
    from common.training.stored.reading import Checkpoint

HELP = "make a model of a run's checkpoint, also while the run goes on"
TRIES = 5
"""Times that a run may remove a checkpoint while it is read, before another one is not tried."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="folder of a run of one of the trainers")
    parser.add_argument(
        "words", metavar="key.path=value", nargs="*", help="fields of the run's recipe to change"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=positive, metavar="N", help="the checkpoint of this step (default: the newest)"
    )
    which.add_argument("--best", action="store_true", help="the one that RUN/checkpoints/best names")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--ema", action="store_true", help="the moving average; an error where there is none"
    )
    weights.add_argument(
        "--raw", action="store_true", help="the weights themselves, not their moving average"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: RUN/exports/step_N, or step_N_raw with --raw"
    )


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a run, checkpoint or recipe that cannot be used, or a folder that cannot be written."""
    folder: Path = arguments.run_folder
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: no run of a trainer: it has no checkpoints/")
    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"{arguments.out}: is there already; choose another folder, or remove it")

    for _ in range(TRIES):
        newest = _latest(folder)
        try:
            return _export(arguments, _checkpoint(arguments))
        except UserError as error:
            if arguments.step is not None or _latest(folder) == newest:
                raise
            print(f"{error}; the run has gone on meanwhile: once more, with what it has now", flush=True)
    raise UserError(
        f"{folder}: its checkpoints are removed faster than they can be read; raise checkpoint.keep"
    )


def _latest(folder: Path) -> bytes | None:
    """What `RUN/checkpoints/latest` holds: another one is there when the run has saved, and removed, a checkpoint."""
    try:
        return (folder / "checkpoints" / "latest").read_bytes()
    except OSError:
        return None


def _checkpoint(arguments: argparse.Namespace) -> Checkpoint:
    """The one that is asked for: whole, and held open, so that it can be read to its end when the run removes it."""
    from common.training.best import read_best
    from common.training.stored.manifest import step_folder
    from common.training.stored.reading import Checkpoint, newest_whole

    folder = arguments.run_folder / "checkpoints"
    if arguments.step is None and not arguments.best:
        newest = newest_whole(folder)
        if newest is None:
            raise UserError(
                f"{folder}: no checkpoint yet; the run saves one every checkpoint.save_every steps"
            )
        return _held(newest)
    name = step_folder(arguments.step) if arguments.step is not None else None
    if name is None:
        best = read_best(folder)
        if best is None:
            raise UserError(f"{folder}: no best checkpoint; the recipe's checkpoint.best says by which score")
        name = best.checkpoint
    if not (folder / name).is_dir():
        there = ", ".join(sorted(path.name for path in folder.glob("step_*"))) or "none"
        raise UserError(f"{folder / name}: no such checkpoint; there are: {there}")
    checkpoint = _held(Checkpoint(folder / name))
    checkpoint.verify()
    return checkpoint


def _held(checkpoint: Checkpoint) -> Checkpoint:
    """With all its files open: they can be read to their end though the run removes them."""
    for file in checkpoint.files.values():
        for key in file.keys[:1]:
            checkpoint.read(key)
    _ = checkpoint.record
    return checkpoint


def _export(arguments: argparse.Namespace, checkpoint: Checkpoint) -> None:
    from common.training.module_state import holds_averages

    averaged = not arguments.raw and holds_averages(checkpoint)
    if arguments.ema and not averaged:
        raise UserError(f"{checkpoint.path}: --ema: holds no moving average; its run keeps none")
    config, export = _job(arguments, checkpoint)
    suffix = "_raw" if arguments.raw else ""
    out = arguments.out or arguments.run_folder / "exports" / f"{checkpoint.path.name}{suffix}"
    for written in export(config, arguments.run_folder, checkpoint, out, averaged):
        kind = ", its moving average" if averaged else ""
        print(f"{written}: the model of step {checkpoint.step}{kind}", flush=True)


def _job(arguments: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """The run's recipe, and the `export` of its job."""
    from common.config import load_config

    path = arguments.run_folder / "config.yaml"
    with refusing(f"{path}: cannot be read"):
        stated = set(yaml.safe_load(path.read_text(encoding="utf-8")))
    if "epochs" in stated:
        from understanding.config import UnderstandingConfig
        from understanding.from_checkpoint import export

        return load_config(UnderstandingConfig, path, arguments.words), export
    if "rollouts" in stated:
        from post_training.config import PostTrainingConfig
        from post_training.from_checkpoint import export as export_policy

        return load_config(PostTrainingConfig, path, arguments.words), export_policy
    if "loss_vocabulary" in stated:
        from generation.config import GenerationConfig
        from generation.from_checkpoint import export as export_generator

        return load_config(GenerationConfig, path, arguments.words), export_generator
    from tokenizer.config import TokenizerConfig
    from tokenizer.from_checkpoint import export as export_tokenizer

    return load_config(TokenizerConfig, path, arguments.words), export_tokenizer
