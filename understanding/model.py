"""`LlavaForConditionalGeneration` around a VQRAE encoder: its config, and the model before it has weights."""

from __future__ import annotations

from typing import Any

from accelerate import init_empty_weights
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    SiglipVisionConfig,
)

from common.errors import UserError, refusing
from common.models.hub_format import tower_config
from common.models.strict_loading import config_of
from understanding.config import ModelConfig
from understanding.tower import only_siglip

VOCABULARY_MULTIPLE = 64
"""A grown vocabulary is rounded up to it: matrix products of odd sizes are slow."""

# What some language models do to their logits and LLaVA's class would leave out.
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def skeleton(config: LlavaConfig, attn_implementation: str = "sdpa") -> LlavaForConditionalGeneration:
    """The model with parameters that have a shape and no memory; its buffers (rotary frequencies) are real.

    Raises:
        UserError: the attention implementation cannot be had here.
    """
    unusable = f"model.attn_implementation: {attn_implementation!r} cannot be used"
    with refusing(unusable, ImportError, ValueError), init_empty_weights(include_buffers=False):
        llava = LlavaForConditionalGeneration._from_config(config, attn_implementation=attn_implementation)
    llava.tie_weights()  # taking the memory away has untied them
    return llava


def llava_config(
    tower: PreTrainedConfig, text: PreTrainedConfig, vocabulary: int, image_token_id: int, image_tokens: int
) -> LlavaConfig:
    """LLaVA's config around both; `vocabulary` replaces that of `text`, which is left as it is.

    Reads the last hidden state of all patches: exactly what the quantizer reads (decision 1).
    """
    return LlavaConfig(
        vision_config=_without_provenance(tower_config(tower)),
        text_config={**_without_provenance(text), "vocab_size": vocabulary},
        image_token_index=image_token_id,
        image_seq_length=image_tokens,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )


def stated_config(model: ModelConfig) -> LlavaConfig:
    """LLaVA's config by the recipe alone; the image token is one more than the language model's vocabulary.

    Raises:
        UserError: the stated architectures are none that transformers knows.
    """
    tower = config_of(model.tower.architecture, "model.tower.architecture")
    if not isinstance(tower, SiglipVisionConfig):
        raise UserError(f"model.tower.architecture: model_type: {only_siglip(tower.model_type)}")
    text = config_of(model.language_model.architecture, "model.language_model.architecture")
    check_language_model(text, "model.language_model.architecture")
    size = int(text.vocab_size)
    return llava_config(tower, text, grown_vocabulary(size, size + 1), size, model.image_tokens)


def grown_vocabulary(rows: int, needed: int) -> int:
    """Rows of the embedding so that `needed` tokens have one; as they are, where there is room (Qwen2.5)."""
    return rows if needed <= rows else -(-needed // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def check_language_model(text: PreTrainedConfig, source: str) -> None:
    """Raises `UserError` for what `LlavaForConditionalGeneration` cannot hold."""
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{source}: model_type: {text.model_type!r} is no causal language model")
    for field in LOGIT_TRANSFORMS:
        if getattr(text, field, None) not in (None, 1, 1.0):
            raise UserError(f"{source}: {field}: LLaVA's class has no such step; choose another model")
    if getattr(text, "quantization_config", None) is not None:
        raise UserError(f"{source}: quantization_config: quantized weights cannot be trained")


def _without_provenance(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a config, without where it came from and in which precision."""
    left_out = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {field: value for field, value in config.to_dict().items() if field not in left_out}
