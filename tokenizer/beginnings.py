"""What a stage of tokenizer training will touch, tried before anything slow; and what of its recipe is hardly meant."""

from __future__ import annotations

from pathlib import Path

import torch

from common.data.accounts import numbered
from common.data.config import SourceConfig
from common.training.beginnings import (
    schedule_warnings,
    told_sources,
    try_file,
    try_held_out,
    try_model,
    try_room,
    try_run,
    try_sources,
)
from common.training.plan import checkpoint_bytes
from tokenizer.assemble import assemble_discriminator, model_on_meta
from tokenizer.config import TokenizerConfig


def begin(run: Path, config: TokenizerConfig) -> list[str]:
    """Try everything, on all ranks together; returns the warnings.

    Raises:
        UserError: something is not there, cannot be written, or there is no room for it.
    """
    try_run(run, config.logging)
    try_model("init_from", config.init_from)
    if config.init_from is None:
        try_model("model.encoder.source", config.model.encoder.source)
    perceptual = config.loss.perceptual_model
    if config.loss.perceptual or config.evaluation.distances:
        try_file("loss.perceptual_model.lpips_vgg_weights", perceptual.lpips_vgg_weights)
        try_file("loss.perceptual_model.convnext_weights", perceptual.convnext_weights)
        try_file("evaluation.inception_weights", config.evaluation.inception_weights)
    try_sources("data.sources", config.data.sources)
    images, limit = config.evaluation.images, config.evaluation.limit
    held_out = SourceConfig(kind="folder", path=images, unconditional=True) if images is not None else None
    notices = try_held_out("evaluation.images", held_out, config.data, limit)
    model = model_on_meta(config.model)
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rests = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    with torch.device("meta"):
        critic = assemble_discriminator(config)
    judges = sum(p.numel() for p in critic.parameters()) if critic else 0
    size = checkpoint_bytes(learns, rests, config.ema) + checkpoint_bytes(judges)
    try_room(run, size, 4.0 * (learns + rests), config.checkpoint, config.steps)
    told = told_sources(numbered("data.sources", config.data.sources), captions=False)
    return [*notices, *warnings(config), *told]


def warnings(config: TokenizerConfig) -> list[str]:
    """Lines about what is allowed and hardly meant."""
    loss, rates = config.loss, config.optimizer
    events = [("loss.discriminator_start", loss.discriminator_start if loss.discriminator else None)]
    lines = schedule_warnings(config.steps, rates.warmup_steps, "optimizer.warmup_steps", events)
    if not (loss.reconstruction or loss.perceptual or loss.discriminator):
        lines.append(
            "warning: loss: nothing teaches the decoder: reconstruction, perceptual, discriminator are 0"
        )
    if rates.end_lr > min(rate for rate in (rates.decoder_lr, rates.encoder_lr) if rate is not None):
        lines.append("warning: optimizer.end_lr: over a peak rate, so that rates rise to the end")
    if config.evaluation.images is None:
        lines.append(
            "warning: evaluation.images: null, so logging.evaluate_every and picture_every do nothing"
        )
    if config.model.warning:
        lines.append(config.model.warning)
    return lines
