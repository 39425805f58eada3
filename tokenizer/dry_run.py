"""What a recipe would do, from its numbers alone: no weights, no network, no process group."""

from __future__ import annotations

from common.training.command import planned_ranks
from common.training.memory import zero_bytes
from tokenizer.assemble import assemble_discriminator, model_on_meta
from tokenizer.config import TokenizerConfig


def plan(config: TokenizerConfig, gpus: int | None = None) -> str:
    """A page of text: batch, steps, images, parameters, memory per GPU.

    Raises:
        UserError: the global batch does not divide over the ranks.
    """
    gpus = planned_ranks(gpus)
    batch = config.batch
    accumulation = batch.accumulation(gpus)
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
    still = frozen + teacher + model.quantizer.codebook.numel()
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
        there = zero_bytes(trained + critic_size, still, stage, gpus, config.engine.precision) + average
        lines.append(f"  ZeRO-{stage}         {there / 2**30:6.1f} GiB{mark}")
    return "\n".join(lines)
