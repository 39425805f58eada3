"""From a recipe to what a run is made of: tower, processor, language side, engine, conversations and their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerBase

from common.errors import UserError, refusing
from common.models.strict_loading import check_architecture
from common.models.vision_encoder import VisionEncoder
from common.models.weight_files import resolve_folder
from common.training.engine import Precision, autocast, start_engine
from common.training.optim import cosine_factor, parameter_groups, warmup_steps, with_muon
from common.training.state import Fact
from understanding.batches import BatchPlan
from understanding.config import ConversationSource, ModelConfig, OptimizerConfig, UnderstandingConfig
from understanding.dataset import ConversationDataset, open_conversations
from understanding.few_bits import make_few_bit_layers
from understanding.filling import fill
from understanding.lora import add_adapters
from understanding.model import grown_vocabulary, llava_config, skeleton
from understanding.objective import LanguageSide
from understanding.processor import build_processor
from understanding.templates import IMAGE_TOKEN
from understanding.text_tokenizer import load_text_tokenizer
from understanding.tower import load_tower, tower_hash
from understanding.weights import Source, match

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
    with refusing(field, UserError):
        folder = resolve_folder(source)
    text_tokenizer = load_text_tokenizer(str(folder), model.template, model.language_model.pad_token)
    return build_processor(tower, text_tokenizer, model.image_fit)


def assemble_language_side(
    config: UnderstandingConfig,
    tower: VisionEncoder,
    processor: LlavaProcessor,
    settings: dict[str, Any],
    device: torch.device,
) -> LanguageSide:
    """Projector and language model with their weights: what the engine is to hold. All ranks call this together.

    It starts from the LLaVA folder `init_from`, or from the recipe's language model and a random projector. What
    `model.train` leaves out does not require a gradient. What is random (a fresh projector, adapters) is drawn from
    torch's generator on the CPU, so it is the same for every ZeRO stage and device.

    Args:
        processor: its text tokenizer knows the image token; the vocabulary grows to hold it, and new rows are the
            mean of the old.
        settings: DeepSpeed's config, by which parameters are partitioned as they are read where it says ZeRO-3.

    Raises:
        UserError: sources that are absent, of another architecture than the recipe states, or that do not fit each
            other; weights that are missing, surplus or misshapen.
    """
    model, engine = config.model, config.engine
    source = Source(config.init_from or model.language_model.source)
    llava = _llava_config(model, tower, processor.tokenizer, source)
    if config.init_from is not None:
        there = load_tower(config.init_from, model.tower.architecture)
        _check_tower(tower_hash(there), tower_hash(tower), f"{config.init_from}: init_from")

    side = LanguageSide(skeleton(llava, model.attn_implementation))
    stored = match(source, side.llava)
    _choose_what_learns(side, model, engine.precision)
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    if engine.zero_stage == 3:
        from common.language.partition import Partition, save_memory

        fill(side.llava, stored, dtype, device, Partition(settings))
        save_memory(side)
    else:
        fill(side.llava, stored, dtype, device)
    if engine.activation_checkpointing:
        side.llava.activation_checkpointing_enable({"use_reentrant": False})
    return side


def _llava_config(
    model: ModelConfig, tower: VisionEncoder, text_tokenizer: PreTrainedTokenizerBase, source: Source
) -> LlavaConfig:
    """LLaVA's config around the source's language model, which must be what the recipe states."""
    expected = dict(model.language_model.architecture)
    vocabulary = grown_vocabulary(int(expected["vocab_size"]), len(text_tokenizer))
    image_token = text_tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if source.is_llava:
        expected["vocab_size"] = vocabulary  # has grown already
        if source.stated.get("image_token_index") != image_token:
            raise UserError(
                f"{source.name}: config.json: image_token_index: {IMAGE_TOKEN} is {image_token} in the text "
                f"tokenizer, the checkpoint has {source.stated.get('image_token_index')}"
            )
    check_architecture(source.text, expected, source.name)
    return llava_config(tower.model.config, source.text, vocabulary, image_token, model.image_tokens)


def _check_tower(there: str, here: str, where: str) -> None:
    if there != here:
        raise UserError(f"{where}: was trained on the tower {there[:12]}, model.tower names {here[:12]}")


def _choose_what_learns(side: LanguageSide, model: ModelConfig, precision: Precision) -> None:
    side.requires_grad_(False)
    if model.lora is not None:
        if model.lora.bits is not None:
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            make_few_bit_layers(side.llava, model.lora.bits, dtype)
        add_adapters(side, model.lora)
    elif "language_model" in model.train:
        side.llava.model.language_model.requires_grad_(True)
        side.llava.lm_head.requires_grad_(True)
    if "projector" in model.train:
        side.llava.model.multi_modal_projector.requires_grad_(True)


def start_language_side(
    side: LanguageSide, config: UnderstandingConfig, settings: dict[str, Any], steps: int
) -> Any:
    """The engine around projector and language model.

    Args:
        settings: DeepSpeed's config, with which `side` was built.
        steps: of the whole run, for the schedule.
    """
    rates = config.optimizer
    warmup = warmup_steps(rates.warmup_ratio, steps)

    def schedule(group: dict[str, Any]) -> Callable[[int], float]:
        return cosine_factor(group["lr"], rates.end_lr, warmup, steps)

    return start_engine(
        side, learned_groups(side, rates), schedule, rates.adamw.betas, rates.adamw.eps, settings
    )


def learned_groups(side: LanguageSide, rates: OptimizerConfig) -> list[dict[str, Any]]:
    """What learns in `side`, each part at its peak rate: groups named after `language_model` (where it has adapters,
    these) and `projector`."""
    llava, decay = side.llava, rates.adamw.weight_decay
    language_model = [llava.model.language_model, llava.lm_head]
    projector_lr = rates.lr if rates.projector_lr is None else rates.projector_lr
    groups = [
        *parameter_groups("language_model", language_model, rates.lr, decay),
        *parameter_groups("projector", [llava.model.multi_modal_projector], projector_lr, decay),
    ]
    if rates.muon is not None:
        groups = with_muon(groups, rates.muon, llava.get_output_embeddings().weight)
    return groups


def current_rates(engine: Any) -> dict[str, float]:
    """`lr`, and `lr_projector` where it is another."""
    rates = {group["name"].split("/")[0]: group["lr"] for group in engine.optimizer.param_groups}
    projector = rates.pop("projector", None)
    rate = next(iter(rates.values()), projector)
    return {"lr": rate} | ({} if projector in (None, rate) else {"lr_projector": projector})


def tower_fact(tower: VisionEncoder) -> Fact:
    """Checkpoints refer to the frozen tower by its hash."""
    here = tower_hash(tower)
    return Fact(here, lambda saved, checkpoint: _check_tower(saved, here, f"{checkpoint}: model.tower"))


def assemble_dataset(
    config: UnderstandingConfig,
    sources: Sequence[ConversationSource],
    processor: LlavaProcessor,
    limit: int | None = None,
) -> ConversationDataset:
    """Conversations as this recipe's template and processor lay them out.

    Raises:
        UserError: annotations are absent, damaged, or none of them can be trained on.
    """

    def to_pixels(image: Image) -> Tensor:
        return processor.image_processor(image, return_tensors="pt").pixel_values[0]

    return open_conversations(config, sources, processor.tokenizer, to_pixels, limit)


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
        spans=dataset.spans,
    )


@torch.no_grad()
def read_features(tower: VisionEncoder, pixel_values: Tensor, precision: Precision) -> Tensor | None:
    """Normalised pixels (I, 3, S, S), on any device -> Z_I (I, N, D) on the tower's; None for no image."""
    if not len(pixel_values):
        return None
    device, dtype = tower.model.device, tower.model.dtype
    with autocast(precision, device):
        return tower.read(pixel_values.to(device, dtype, non_blocking=True))
