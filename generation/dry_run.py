"""What a recipe would do, from its numbers alone: no weights, no network, no process group."""

from __future__ import annotations

from common.training.plan import batch_line, memory_lines, planned_ranks, source_lines
from generation.config import MARKS, GenerationConfig


def plan(config: GenerationConfig, gpus: int | None = None) -> str:
    """A page of text: batch, steps, sequence, vocabulary, parameters, memory per GPU.

    Raises:
        UserError: the global batch does not divide over the ranks.
    """
    from generation.assemble import generator_on_meta

    gpus = planned_ranks(gpus)
    batch, tokenizer = config.batch, config.model.tokenizer
    language_model, vqrae = generator_on_meta(config.model)
    trained = sum(p.numel() for p in language_model.parameters())
    frozen = sum(p.numel() for p in vqrae.parameters())
    images = batch.global_size * config.steps
    text = config.model.language_model.text_vocabulary
    rows = (
        config.model.tokenizer.codebook_size
        if config.loss_vocabulary == "codes"
        else language_model.config.vocab_size
    )
    logits = batch.micro_size * config.image_tokens * rows * 4
    origin = f"extracted codes in {config.data.codes}" if config.data.codes else "encoded while training"
    fixed = 4 * (frozen + tokenizer.codebook_size * tokenizer.codebook_dim)
    lines = [
        batch_line(batch, gpus),
        f"steps            {config.steps:,} ({images:,} images, {images * config.image_tokens:,} image tokens; "
        f"{config.optimizer.warmup_steps:,} of warm-up)",
        f"image            {config.data.image_size} px, {config.grid[0]} x {config.grid[1]} = {config.image_tokens} "
        f"image tokens, {origin}",
        f"sequence         {config.data.max_length} tokens: at most {config.text_room} text tokens, {MARKS} marks, "
        f"{config.image_tokens} image tokens",
        f"vocabulary       {text:,} text, {MARKS} marks, {tokenizer.codebook_size:,} codes; the loss is over {rows:,}",
        f"trained          {trained / 1e6:,.1f} M parameters",
        f"frozen           {frozen / 1e6:,.1f} M parameters of the VQRAE",
        f"logits           {logits / 2**30:.2f} GiB of float32 for a micro-batch",
        *source_lines(config.data.sources, captions=True),
        "memory per GPU   weights, gradients, optimizer and VQRAE, without activations and logits:",
        *memory_lines(config.engine, gpus, trained=trained, beside=fixed),
    ]
    return "\n".join(lines)
