"""What the training of a generator will touch, tried before anything slow; and what of its recipe is hardly meant."""

from __future__ import annotations

from pathlib import Path

from common.data.accounts import numbered
from common.errors import UserError, refusing
from common.training.beginnings import (
    schedule_warnings,
    told_sources,
    try_held_out,
    try_model,
    try_room,
    try_run,
    try_sources,
)
from common.training.plan import checkpoint_bytes
from generation.assemble import generator_on_meta
from generation.codes.library import told_codes
from generation.config import GenerationConfig


def begin(run: Path, config: GenerationConfig) -> list[str]:
    """Try everything, on all ranks together; returns the warnings.

    Raises:
        UserError: something is not there, cannot be written, or there is no room for it.
    """
    try_run(run, config.logging)
    language_model = config.model.language_model
    try_model("model.tokenizer.source", config.model.tokenizer.source)
    try_model("init_from", config.init_from)
    if config.init_from is None:
        try_model("model.language_model.source", language_model.source)
    codes: list[str] = []
    if config.data.codes is None:
        try_sources("data.sources", config.data.sources)
    else:
        with refusing("data.codes", UserError):
            codes = told_codes(Path(config.data.codes), config.data.sources)
    source, limit = config.evaluation.source, config.evaluation.limit
    notices = try_held_out("evaluation.source", source, config.data, limit)
    model, vqrae = generator_on_meta(config.model)
    learns, beside = (sum(p.numel() for p in part.parameters()) for part in (model, vqrae))
    try_room(run, checkpoint_bytes(learns), 4.0 * (learns + beside), config.checkpoint, config.steps)
    sources = {} if config.data.codes else numbered("data.sources", config.data.sources)
    if source is not None:
        sources["evaluation.source"] = source
    return [*notices, *warnings(config), *codes, *told_sources(sources, captions=True)]


def warnings(config: GenerationConfig) -> list[str]:
    """Lines about what is allowed and hardly meant."""
    lines = schedule_warnings(config.steps, config.optimizer.warmup_steps, "optimizer.warmup_steps", ())
    if config.evaluation.source is None:
        lines.append("warning: evaluation.source: null, so logging.evaluate_every does nothing")
    return lines
