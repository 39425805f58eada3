"""What a recipe would do, from its numbers alone: no weights, no network, no process group."""

from __future__ import annotations

from pathlib import Path

from common.training.plan import memory_lines, planned_ranks
from generation.config import MARKS
from post_training.config import PostTrainingConfig


def plan(config: PostTrainingConfig, gpus: int | None = None) -> str:
    """A page of text: rollouts, updates, prompts, sequence, parameters, memory per GPU.

    Raises:
        UserError: rollouts do not divide over the ranks, or prompts that are here cannot be read.
    """
    from generation.assemble import generator_on_meta
    from post_training.beginnings import check_ranks, told_prompts, training_prompts
    from post_training.methods.opening import method_of

    gpus = planned_ranks(gpus)
    check_ranks(config, gpus)
    rollouts, model, batch = config.rollouts, config.model, config.update_batch
    language_model, vqrae = generator_on_meta(model.as_trained())
    trained = sum(p.numel() for p in language_model.parameters())
    frozen = sum(p.numel() for p in vqrae.parameters())
    pictures = rollouts.prompts * rollouts.group
    width = 2 if config.engine.precision == "bf16" else 4
    rows = 2 if rollouts.cfg_scale != 1 else 1
    logits = rows * batch.micro_size * model.image_tokens * model.tokenizer.codebook_size * 4
    reference = width * trained if method_of(config).refers else 0
    # The sampler's own copy of the layers, and keys and values of the pictures that it draws at once.
    shape = language_model.config
    cache = 2 * width * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    cache *= rows * min(rollouts.batch_size, pictures // gpus) * model.max_length
    beside = 4 * frozen + reference + width * trained + cache
    file = config.prompts.file
    there = file is None or Path(file).is_file()
    prompts = told_prompts(training_prompts(config)) if there else f"{file}: not here"
    lines = [
        f"rollouts         {pictures} pictures a step = {rollouts.prompts} prompts x {rollouts.group}; "
        f"{pictures // gpus} on each of {gpus} ranks, at most {rollouts.batch_size} at once; {rollouts.sampling}",
        f"updates          {config.updates_per_rollout} a step, of {batch.global_size} pictures = {batch.micro_size} "
        f"micro x {batch.accumulation(gpus)} accumulation x {gpus} ranks; method {config.method}",
        f"steps            {config.steps:,} ({config.steps * pictures:,} pictures drawn; "
        f"{config.optimizer.warmup_steps:,} of warm-up)",
        f"prompts          {prompts}",
        f"rewards          {', '.join(f'{part.called} (weight {part.weight:g})' for part in config.rewards)}",
        f"held-out judge   {config.held_out.judge.called if config.held_out else 'none'}",
        f"sequence         {model.max_length} tokens: text, {MARKS} marks, {model.image_tokens} image tokens",
        f"trained          {trained / 1e6:,.1f} M parameters",
        f"frozen           {frozen / 1e6:,.1f} M parameters of the VQRAE"
        + (f", {trained / 1e6:,.1f} M of the reference" if reference else ""),
        f"logits           {logits / 2**30:.2f} GiB of float32 for a micro-batch",
        f"cache            {cache / 2**30:.2f} GiB of keys and values while drawing",
        "memory per GPU   weights, gradients, optimizer, sampler, VQRAE and reference, without activations, logits and "
        "scorers:",
        *memory_lines(config.engine, gpus, trained=trained, beside=beside),
    ]
    return "\n".join(lines)
