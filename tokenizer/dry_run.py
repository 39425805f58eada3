"""What a recipe would do, from its numbers alone: no weights, no network, no process group."""

from __future__ import annotations

from collections.abc import Sequence

from common.training.plan import batch_line, memory_lines, planned_ranks, source_lines
from tokenizer.config import TokenizerConfig


def plan(config: TokenizerConfig, gpus: int | None = None) -> str:
    """A page of text: batch, steps, images, parameters, memory per GPU.

    Raises:
        UserError: the global batch does not divide over the ranks.
    """
    from tokenizer.assemble import assemble_discriminator, model_on_meta

    gpus = planned_ranks(gpus)
    batch = config.batch
    model = model_on_meta(config.model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    critic = assemble_discriminator(config)
    critic_size = sum(p.numel() for p in critic.parameters()) if critic else 0
    teacher = sum(p.numel() for p in model.encoder.parameters()) if config.loss.teaches else 0
    layers = config.model.quantizer_layers
    read = "the last hidden state" if layers is None else f"the mean of hidden states {_listed(layers)}"
    images = batch.global_size * config.steps
    tokens = model.config.grid[0] * model.config.grid[1]
    average = 4 * trained / gpus if config.ema else 0.0
    still = frozen + teacher + model.quantizer.codebook.numel()
    lines = [
        batch_line(batch, gpus),
        f"steps            {config.steps:,} ({images:,} images, {images * tokens:,} tokens)",
        f"image            {config.data.image_size} px out, {model.encoder.image_size} px into the encoder, "
        f"{model.config.grid[0]} x {model.config.grid[1]} tokens",
        f"codebook         {config.model.codebook_size:,} x {config.model.codebook_dim}, of {read}",
        f"trained          {trained / 1e6:,.1f} M parameters, discriminator {critic_size / 1e6:,.1f} M",
        f"frozen           {frozen / 1e6:,.1f} M parameters, teacher {teacher / 1e6:,.1f} M",
        *source_lines(config.data.sources, captions=False),
        "memory per GPU   weights, gradients, optimizer and averages, without activations and perceptual networks:",
        *memory_lines(config.engine, gpus, trained=trained + critic_size, frozen=still, beside=average),
    ]
    if config.model.warning:
        lines.append(config.model.warning)
    return "\n".join(lines)


def _listed(numbers: Sequence[int]) -> str:
    """Of ascending numbers: "0 to 27", or "0, 2, 4"."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
