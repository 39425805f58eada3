"""What a recipe would do, from its numbers alone: no weights, no network, no process group."""

from __future__ import annotations

import os

from common.errors import UserError
from tokenizer.assemble import assemble_discriminator, model_on_meta
from tokenizer.config import TokenizerConfig

DEFAULT_GPUS = 8
ADAM_BYTES = 8  # two float32 moments
COPY_BYTES = 4  # ZeRO's own float32 copy of what it updates


def plan(config: TokenizerConfig, gpus: int | None = None) -> str:
    """A page of text: batch, steps, images, parameters, memory per GPU.

    Raises:
        UserError: the global batch does not divide over the ranks.
    """
    gpus = int(os.environ.get("WORLD_SIZE", DEFAULT_GPUS)) if gpus is None else gpus
    if gpus < 1:
        raise UserError(f"--gpus: expected 1 or more, found {gpus}")
    batch = config.batch
    try:
        accumulation = batch.accumulation(gpus)
    except ValueError as error:
        raise UserError(str(error)) from error
    model = model_on_meta(config.model)
    model.encoder.requires_grad_(not config.model.freeze_encoder)
    model.encoder.freeze_unread()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    critic = assemble_discriminator(config)
    critic_size = sum(p.numel() for p in critic.parameters()) if critic else 0
    teacher = sum(p.numel() for p in model.encoder.parameters()) if config.loss.distillation else 0
    images = batch.global_size * config.steps
    tokens = model.config.grid[0] * model.config.grid[1]
    average = 4 * trained / gpus if config.ema else 0.0
    fixed = 4 * (trained + frozen + critic_size + teacher + model.quantizer.codebook.numel()) + average
    lines = [
        f"global batch     {batch.global_size} = {batch.micro_size} micro x {accumulation} accumulation x {gpus} ranks",
        f"steps            {config.steps:,} ({images:,} images, {images * tokens:,} tokens)",
        f"image            {config.data.image_size} px out, {model.encoder.image_size} px into the encoder, "
        f"{model.config.grid[0]} x {model.config.grid[1]} tokens",
        f"codebook         {config.model.codebook_size:,} x {config.model.codebook_dim}",
        f"trained          {trained / 1e6:,.1f} M parameters, discriminator {critic_size / 1e6:,.1f} M",
        f"frozen           {frozen / 1e6:,.1f} M parameters, teacher {teacher / 1e6:,.1f} M",
        "memory per GPU   weights, gradients, optimizer and averages, without activations and perceptual networks:",
    ]
    for stage in (0, 1, 2):
        mark = "  <- this recipe" if stage == config.engine.zero_stage else ""
        lines.append(
            f"  ZeRO-{stage}         {(fixed + _states(trained + critic_size, stage, gpus)) / 2**30:6.1f} GiB{mark}"
        )
    return "\n".join(lines)


def _states(parameters: int, stage: int, gpus: int) -> float:
    """Bytes of gradients and optimizer states on one rank (ZeRO, arXiv 1910.02054)."""
    optimizer = (ADAM_BYTES + (COPY_BYTES if stage else 0)) * parameters / (gpus if stage else 1)
    gradients = 4 * parameters / (gpus if stage == 2 else 1)
    return optimizer + gradients
