"""What a recipe would do, from its numbers alone: no weights, no network, no process group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.training.optim import warmup_steps
from common.training.plan import batch_line, memory_lines, planned_ranks
from understanding.config import UnderstandingConfig
from understanding.weighting import drawn

if TYPE_CHECKING:
    from understanding.sizes import ParameterCounts


def plan(config: UnderstandingConfig, gpus: int | None = None) -> str:
    """A page of text: batch, steps, tokens of an image, parameters, memory per GPU.

    Raises:
        UserError: the global batch does not divide over the ranks.
    """
    from understanding.sizes import count_parameters

    gpus = planned_ranks(gpus)
    model, engine = config.model, config.engine
    counts = count_parameters(model)
    parts = [counts.projector, counts.language_model + counts.adapters]
    trained = counts.trained(model)
    frozen = sum(parts) - trained
    fixed = (2 if engine.precision == "bf16" else 4) * counts.tower + counts.few_bits_bytes
    lines = [
        batch_line(config.batch, gpus),
        f"steps            {_steps(config)}",
        f"sample           {config.data.max_length} tokens at most, {model.image_tokens} of them for each image, "
        f"template {model.template}",
        f"trained          {_millions(trained)}: {_trained_parts(config)}",
        f"frozen           {_millions(frozen + counts.tower)}: the tower {_millions(counts.tower)}, "
        f"the rest {_millions(frozen)}{_in_few_bits(config, counts)}",
        "memory per GPU   weights, gradients, optimizer and tower, without activations:",
        *memory_lines(
            engine,
            gpus,
            trained=trained,
            frozen=frozen - counts.few_bits,
            beside=fixed,
            stages=(0, 1, 2) if counts.few_bits else (0, 1, 2, 3),
        ),
    ]
    if engine.offload != "none":
        lines.append(f"  offload        optimizer states rest on {engine.offload} instead")
    return "\n".join(lines)


def _steps(config: UnderstandingConfig) -> str:
    stated = [source.samples for source in config.data.sources]
    weights = [source.weight for source in config.data.sources]
    samples = sum(
        drawn(count, weight) for count, weight in zip(stated, weights, strict=True) if count is not None
    )
    if None in stated:
        return "follow from the data; state data.sources.*.samples to see them here"
    if config.data.packing:
        return f"follow from how {samples:,} samples x {config.epochs} epochs fit into packs"
    steps = -(-samples // config.batch.global_size) * config.epochs
    warmup = warmup_steps(config.optimizer.warmup_ratio, steps)
    return f"{steps:,} ({samples:,} samples x {config.epochs} epochs; {warmup:,} of warm-up)"


def _trained_parts(config: UnderstandingConfig) -> str:
    if config.model.lora:
        return f"projector, adapters of rank {config.model.lora.rank}"
    return ", ".join(part.replace("_", " ") for part in config.model.train)


def _in_few_bits(config: UnderstandingConfig, counts: ParameterCounts) -> str:
    if config.model.lora is None or config.model.lora.bits is None:
        return ""
    size = f"{counts.few_bits_bytes / 2**30:.1f} GiB"
    return f", of which {_millions(counts.few_bits)} in {config.model.lora.bits} bits: {size}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M"
