"""What a stage of understanding will touch, tried before anything slow; and what of its recipe is hardly meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.data.blobs import listed, stat
from common.errors import UserError, refusing
from common.training.beginnings import schedule_warnings, try_model, try_room, try_run
from common.training.optim import warmup_steps
from common.training.plan import checkpoint_bytes
from understanding.config import ConversationSource, UnderstandingConfig
from understanding.sizes import count_parameters

if TYPE_CHECKING:
    from understanding.dataset import ConversationDataset


def begin(run: Path, config: UnderstandingConfig) -> None:
    """Try everything that does not wait for the data.

    Raises:
        UserError: something is not there, cannot be written, or there is no room for it.
    """
    try_run(run, config.logging)
    try_model("model.tower.source", config.model.tower.source)
    try_model("init_from", config.init_from)
    if config.init_from is None:
        try_model("model.language_model.source", config.model.language_model.source)
    for number, source in enumerate(config.data.sources):
        _try_source(f"data.sources.{number}", source)
    if config.evaluation.source is not None:
        _try_source("evaluation.source", config.evaluation.source)
    counts = count_parameters(config.model)
    model = 4.0 * (counts.tower + counts.projector + counts.language_model)
    # A frozen language model is not saved with a checkpoint. How many steps there are follows from the data.
    size = checkpoint_bytes(counts.trained(config.model))
    try_room(run, size, model, config.checkpoint, config.checkpoint.save_every * (config.checkpoint.keep + 1))


def _try_source(field: str, source: ConversationSource) -> None:
    with refusing(field, UserError):
        if source.kind == "json" and not Path(source.annotations).is_file():
            raise UserError(f"{source.annotations}: annotations: no such file")
        if source.kind in ("parquet", "shards"):
            suffix, what = (".parquet", "parquet files") if source.kind == "parquet" else (".tar", "shards")
            for path in listed(source.annotations, (suffix,), what):
                stat(path)
        if source.images is not None and not Path(source.images).is_dir():
            raise UserError(f"{source.images}: images: no such folder")


def warnings(config: UnderstandingConfig, steps: int) -> list[str]:
    """Lines about what is allowed and hardly meant.

    Args:
        steps: of the whole run.
    """
    rates = config.optimizer
    warmup = warmup_steps(rates.warmup_ratio, steps)
    lines = schedule_warnings(steps, warmup, "optimizer.warmup_ratio", ())
    if rates.end_lr > min(rate for rate in (rates.lr, rates.projector_lr) if rate is not None):
        lines.append("warning: optimizer.end_lr: over a peak rate, so that rates rise to the end")
    if config.evaluation.source is None:
        lines.append("warning: evaluation.source: null, so logging.evaluate_every does nothing")
    return lines


def account_lines(dataset: ConversationDataset) -> list[str]:
    """A line for each source: how many samples it has, what is left out, what its records hold and is not read."""
    return [
        "; ".join(
            [
                f"{name}: {account.samples:,} samples",
                *(f"{n:,} {what}" for what, n in account.left_out.items()),
            ]
        )
        for name, account in dataset.accounts()
    ]
