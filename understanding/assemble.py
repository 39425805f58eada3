"""From a recipe to what a run is made of: tower, processor, language side, engine, conversations and their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LlavaProcessor

from common.errors import UserError
from common.models.vision_encoder import VisionEncoder
from common.models.weight_files import resolve_folder
from common.training.engine import Precision, autocast, start_engine
from common.training.optim import cosine_factor, parameter_groups, with_muon
from common.training.state import Fact
from understanding.batches import BatchPlan
from understanding.config import ConversationSource, UnderstandingConfig
from understanding.dataset import ConversationDataset
from understanding.model import LanguageSide
from understanding.processor import build_processor
from understanding.text_tokenizer import load_text_tokenizer
from understanding.tower import load_tower, tower_hash
from understanding.weights import build_language_side

if TYPE_CHECKING:
    from PIL.Image import Image


def assemble_tower(config: UnderstandingConfig, device: torch.device) -> VisionEncoder:
    """The frozen tower on its device, in the precision of the engine's parameters."""
    stated = config.model.tower
    tower = load_tower(stated.source, stated.architecture, config.model.attn_implementation)
    return tower.to(device, torch.bfloat16 if config.engine.precision == "bf16" else torch.float32)


def assemble_processor(config: UnderstandingConfig, tower: VisionEncoder) -> LlavaProcessor:
    """Text tokenizer with the recipe's template, and the tower's image processor.

    Raises:
        UserError: there is no text tokenizer, or it does not fit the template.
    """
    model = config.model
    field, source = "model.language_model.source", model.language_model.source
    if config.init_from is not None:
        field, source = "init_from", config.init_from
    try:
        folder = resolve_folder(source)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    text_tokenizer = load_text_tokenizer(str(folder), model.template, model.language_model.pad_token)
    return build_processor(tower, text_tokenizer, model.image_fit)


def assemble_language_side(
    config: UnderstandingConfig,
    tower: VisionEncoder,
    processor: LlavaProcessor,
    settings: dict[str, Any],
    device: torch.device,
) -> LanguageSide:
    """What the engine is to hold; partitioned as it is read where `settings` say ZeRO-3.

    Raises:
        UserError: weights are absent, or of another architecture than the recipe states.
    """
    return build_language_side(
        config.model,
        tower,
        processor.tokenizer,
        config.init_from,
        precision=config.engine.precision,
        device=device,
        zero3=settings if config.engine.zero_stage == 3 else None,
        activation_checkpointing=config.engine.activation_checkpointing,
    )


def start_language_side(
    side: LanguageSide, config: UnderstandingConfig, settings: dict[str, Any], steps: int
) -> Any:
    """The engine around projector and language model.

    Args:
        settings: DeepSpeed's config, with which `side` was built.
        steps: of the whole run, for the schedule.
    """
    rates = config.optimizer

    def schedule(group: dict[str, Any]) -> Callable[[int], float]:
        return cosine_factor(rates.lr, rates.end_lr, round(rates.warmup_ratio * steps), steps)

    groups = parameter_groups("learned", [side], rates.lr, rates.adamw.weight_decay)
    if rates.muon is not None:
        groups = with_muon(groups, rates.muon, side.llava.get_output_embeddings().weight)
    return start_engine(side, groups, schedule, rates.adamw.betas, rates.adamw.eps, settings)


def tower_fact(tower: VisionEncoder) -> Fact:
    """Checkpoints refer to the frozen tower by its hash."""
    here = tower_hash(tower)

    def check(saved: str, checkpoint: str) -> None:
        if saved != here:
            raise UserError(
                f"{checkpoint}: model.tower: was trained on the tower {saved[:12]}, the recipe names {here[:12]}"
            )

    return Fact(here, check)


def assemble_dataset(
    config: UnderstandingConfig,
    sources: Sequence[ConversationSource],
    tower: VisionEncoder,
    processor: LlavaProcessor,
    limit: int | None = None,
) -> ConversationDataset:
    """Conversations as this recipe's template and processor lay them out.

    Raises:
        UserError: annotations are absent, damaged, or none of them can be trained on.
    """

    def to_pixels(image: Image) -> Tensor:
        return processor.image_processor(image, return_tensors="pt").pixel_values[0]

    return ConversationDataset(
        sources,
        processor.tokenizer,
        to_pixels,
        image_tokens=config.model.image_tokens,
        image_size=tower.image_size,
        max_length=config.data.max_length,
        limit=limit,
    )


def assemble_plan(config: UnderstandingConfig, dataset: ConversationDataset) -> BatchPlan:
    """The order of the run's batches."""
    return BatchPlan(
        dataset.lengths,
        dataset.images,
        usable=dataset.usable,
        global_size=config.batch.global_size,
        seed=config.seed,
        group=config.data.group,
        pack_length=config.data.max_length if config.data.packing else None,
    )


@torch.no_grad()
def read_features(tower: VisionEncoder, pixel_values: Tensor, precision: Precision) -> Tensor | None:
    """Normalised pixels (I, 3, S, S), on any device -> Z_I (I, N, D) on the tower's; None for no image."""
    if not len(pixel_values):
        return None
    weight = next(tower.parameters())
    with autocast(precision, weight.device):
        return tower.read(pixel_values.to(weight.device, weight.dtype, non_blocking=True))
