"""What every run will touch, tried before anything slow: a run that cannot end well does not begin.

Each trainer's own list (`JOB/beginnings.py`) is made of these. Whatever fails here would have failed after an index was
built, a codebook was started, or hours of training.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from common import dist
from common.data.accounts import accounts
from common.data.blobs import is_url, stat
from common.data.config import DataConfig, SourceConfig
from common.data.corrupt import CorruptCounter
from common.data.evaluation import EvaluationLoader
from common.data.folder_captions import is_ending
from common.data.open import open_indexed
from common.data.shards import shard_paths
from common.errors import UserError, refusing
from common.files import write_png
from common.training.checkpoint import CheckpointConfig
from common.training.reporter import LoggingConfig
from common.training.writers import check_writer

LOOKED_AT = 1024  # pictures of a held-out set, over all ranks: seconds, where a run takes days


def try_run(run: Path, logging: LoggingConfig) -> None:
    """Rank 0 writes and removes a picture where pictures will be, and finds out whether its writers can be had.

    Raises:
        UserError: a folder cannot be written to, or a writer is not installed.
    """
    if not dist.is_main():
        return
    for folder in (run / "checkpoints", run / "pictures"):
        there = folder.is_dir()
        trial = folder / ".trial.png"
        write_png(trial, Image.new("RGB", (1, 1)))
        trial.unlink()
        if not there:
            folder.rmdir()  # a run's folder without checkpoints is no run yet
    for name in logging.writers:
        check_writer(name)


def try_room(run: Path, checkpoint: float, model: float, config: CheckpointConfig, steps: int) -> None:
    """Whether the disk has room for the checkpoints that stay, the one that is being written, and the result.

    Args:
        checkpoint, model: bytes of one checkpoint and of `RUN/model`.
        steps: of the whole run.

    Raises:
        UserError: it has not.
    """
    if not dist.is_main():
        return
    count = min(config.keep + 1, -(-steps // config.save_every))
    taken = sum(path.stat().st_size for path in (run / "checkpoints").rglob("*") if path.is_file())
    needed, free = max(0.0, count * checkpoint - taken) + model, shutil.disk_usage(run).free
    if needed > free:
        raise UserError(
            f"{run}: output: the disk has {_size(free)} left, and the run needs about {_size(needed)} more: {count} "
            f"checkpoints of {_size(checkpoint)} (checkpoint.keep and the one that is being written), and the model"
        )


def try_model(field: str, source: str | None) -> None:
    """A model's folder is there, if a folder is meant: a hub id is left to the hub.

    Raises:
        UserError: it is not, or holds no `config.json`.
    """
    if source is None:
        return
    path, hub_id = Path(source), source.count("/") == 1 and not source.startswith((".", "~", "/"))
    if not path.is_dir():
        if not hub_id:
            raise UserError(f"{field}: {source}: no such folder, and no hub id either (expected owner/name)")
    elif not (path / "config.json").is_file():
        raise UserError(f"{field}: {path / 'config.json'}: no such file; expected the folder of a model")


def try_file(field: str, path: str | None) -> None:
    """Raises:
    UserError: a file is named and is not there.
    """
    if path is not None and not Path(path).is_file():
        raise UserError(f"{path}: no such file; {field} must name the weights")


def try_sources(field: str, sources: Iterable[SourceConfig]) -> None:
    """Each source is there; what it holds is not read.

    Raises:
        UserError: one is not.
    """
    for number, source in enumerate(sources):
        with refusing(f"{field}.{number}", UserError):
            if source.kind == "folder" and not Path(source.path).is_dir():
                there = Path(source.path).exists()
                raise UserError(f"{source.path}: " + ("not a folder" if there else "no such folder"))
            paths = shard_paths(source.path) if source.kind == "shards" else []
            if any(is_url(path) for path in paths):  # one tells whether there is a way to them
                stat(paths[0])
            elif paths and not any(Path(path).is_file() for path in paths):  # a few of many may be damaged
                raise UserError(f"{paths[0]}: no such file")
            beside = source.captions is None or is_ending(source.captions)
            if source.captions is not None and not beside and not Path(source.captions).is_file():
                raise UserError(f"{source.captions}: no such file")


def told_sources(sources: Mapping[str, SourceConfig], captions: bool) -> list[str]:
    """Rank 0 opens each source, given by its field, and says what it was given.

    Raises:
        UserError: one cannot be opened, or has no captions where they are wanted.
    """
    return accounts(sources, captions) if dist.is_main() else []


def try_held_out(field: str, source: SourceConfig | None, data: DataConfig, limit: int) -> list[str]:
    """Open a held-out set and decode the pictures that will be measured, at most `LOOKED_AT` at even distances: each
    rank its share, and all ranks call it. Returns a warning that names what will be left out.

    Args:
        data: how pictures become squares, and which share of them may be unreadable. limit: how many will be measured.

    Raises:
        UserError: it is not there, is empty, or more of it cannot be read than `data.max_corrupt_share` allows.
    """
    if source is None:
        return []
    with refusing(field, UserError):
        images = open_indexed(source)
        measured = min(limit, len(images))
        looked_at = min(measured, LOOKED_AT)
        spread = [place * measured // looked_at for place in range(looked_at)]
        loader = EvaluationLoader(
            source=images,
            images=spread[dist.rank() :: dist.world()],
            size=data.image_size,
            batch=16,
            skip_corrupt=True,
            max_pixels=data.max_pixels,
        )
        corrupt = CorruptCounter(data.max_corrupt_share, "data.max_corrupt_share", minimum=1)
        for batch in loader:
            corrupt.add(batch["skipped"], len(batch["key"]) + len(batch["skipped"]))
        skipped, told = corrupt.check_together()
    return [f"warning: {field}: {told}"] if skipped else []


def schedule_warnings(
    steps: int, warmup: int, field: str, events: Iterable[tuple[str, int | None]]
) -> list[str]:
    """What a run of so few steps will never reach.

    Args:
        field: of the warm-up. events: fields that name a step, with the step.
    """
    lines = []
    if warmup >= steps:
        lines.append(
            f"warning: {field}: {warmup} steps of warm-up in a run of {steps}: the peak rate is never reached"
        )
    for name, step in events:
        if step is not None and step >= steps:
            lines.append(f"warning: {name}: step {step} does not come in a run of {steps} steps")
    return lines


def _size(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.1f} MiB"
