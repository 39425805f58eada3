"""`LlavaForConditionalGeneration` around a VQRAE encoder: the language side, which trains, and the sizes of all.

What is notable here: the tower stays outside the DeepSpeed engine. The engine wraps `LanguageSide`, the library's
own LLaVA model without its tower, and every rank runs the projector in every micro-batch, also where no image
came along; so ZeRO-3 never waits for a rank that took another path. The head is computed where there is something
to learn and nowhere else.

Legend: B rows, L tokens a row, I images, N tokens an image, D tower width, M predicted tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    SiglipVisionConfig,
)

from common.errors import UserError, one_line
from understanding.config import Architecture, ModelConfig
from understanding.tower import only_siglip

VOCABULARY_MULTIPLE = 64
"""A grown vocabulary is rounded up to it: matrix products of odd sizes are slow."""

# What some language models do to their logits and LLaVA's class would leave out.
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class LanguageSide(nn.Module):
    """Projector, language model and head: a LLaVA model whose tower was taken out.

    Args:
        llava: its `model.vision_tower`, if it still has one, is removed.
    """

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        super().__init__()
        if hasattr(llava.model, "vision_tower"):
            del llava.model.vision_tower
        self.llava = llava

    @property
    def config(self) -> LlavaConfig:
        """Of the whole model, tower included."""
        return self.llava.config

    def forward(
        self,
        input_ids: Tensor,
        features: Tensor | None,
        predictors: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy over the learned tokens, and what the model would have said in their place.

        Args:
            input_ids: int64 (B, L); N placeholders in a row for each image, images in reading order of the rows.
            features: (I, N, D) as the tower gives them; None, or I = 0, without images.
            predictors: int64 (M,), flat positions in B L whose hidden state predicts ...
            targets: int64 (M,), ... these ids. M may be 0.
            attention_mask: (B, L), 1 = real, padding to the right; None if nothing is padded.
            position_ids: int64 (B, L), restarting at 0 with every packed document.

        Returns:
            The sum over M of the cross entropy in nats, float32, and the likeliest tokens, int64 (M,).

        All inputs may be on the CPU: they are moved here, after what can be checked there without waiting for a device.

        Raises:
            ValueError: placeholders and features differ in number (checked where `input_ids` is on the CPU).
        """
        placeholder = self.config.image_token_id
        images = 0 if features is None else features.shape[0]
        if input_ids.device.type == "cpu":
            found = int((input_ids == placeholder).sum())
            expected = 0 if features is None else features.shape[0] * features.shape[1]
            if found != expected:
                raise ValueError(f"{found} image placeholders, but {expected} features of {images} images")
        if attention_mask is not None and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
            attention_mask = None  # attention without a mask has the faster kernels

        embedding = self.llava.get_input_embeddings()
        device = embedding.weight.device
        input_ids, predictors, targets = (
            tensor.to(device, non_blocking=True) for tensor in (input_ids, predictors, targets)
        )
        attention_mask, position_ids = (
            None if tensor is None else tensor.to(device, non_blocking=True)
            for tensor in (attention_mask, position_ids)
        )
        inputs = self._with_images(embedding(input_ids), input_ids == placeholder, features, images)
        hidden = self.llava.model.language_model(
            inputs_embeds=inputs, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return self._learned(hidden.flatten(0, 1), predictors, targets)

    def _with_images(self, inputs: Tensor, places: Tensor, features: Tensor | None, images: int) -> Tensor:
        """Embeddings (B, L, H) with the projected features at `places` (B, L)."""
        projector = self.llava.model.multi_modal_projector
        weight, width = projector.linear_1.weight, projector.linear_1.in_features
        if features is None or not images:
            # The same modules as every other rank; what comes out of them counts for nothing.
            blank = torch.zeros(1, 1, width, dtype=weight.dtype, device=inputs.device)
            return inputs + 0 * projector(blank).sum().to(inputs.dtype)
        projected = projector(features.to(inputs.device, weight.dtype, non_blocking=True))
        return inputs.masked_scatter(places.unsqueeze(-1), projected.to(inputs.dtype))

    def _learned(self, hidden: Tensor, predictors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B L, H) -> loss and likeliest tokens at the M predicted places."""
        if not len(predictors):
            loss = 0 * self.llava.lm_head(hidden[:1]).float().sum()
            return loss, targets
        logits = self.llava.lm_head(hidden[predictors]).float()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        return loss, logits.detach().argmax(-1)


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters each part has; `adapters` are LoRA's, beside the language model."""

    tower: int
    projector: int
    language_model: int
    adapters: int


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """The sizes that a recipe states, without memory for them, weights or network.

    Raises:
        UserError: the stated architectures are none that transformers knows.
    """
    llava = skeleton(stated_config(model), model.attn_implementation)
    tower = _size(llava.model.vision_tower)
    side = LanguageSide(llava)
    projector = _size(side.llava.model.multi_modal_projector)
    language_model = _size(side) - projector
    adapters = 0
    if model.lora is not None:
        from understanding.lora import add_adapters

        add_adapters(side, model.lora)
        adapters = _size(side) - projector - language_model
    return ParameterCounts(tower, projector, language_model, adapters)


def skeleton(config: LlavaConfig, attn_implementation: str = "sdpa") -> LlavaForConditionalGeneration:
    """The model with parameters that have a shape and no memory; its buffers (rotary frequencies) are real.

    Raises:
        UserError: the attention implementation cannot be had here.
    """
    try:
        with init_empty_weights(include_buffers=False):
            llava = LlavaForConditionalGeneration._from_config(
                config, attn_implementation=attn_implementation
            )
    except (ImportError, ValueError) as error:
        raise UserError(
            f"model.attn_implementation: {attn_implementation!r} cannot be used: {one_line(error)[:300]}"
        ) from error
    llava.tie_weights()  # taking the memory away has untied them
    return llava


def llava_config(
    tower: PreTrainedConfig, text: PreTrainedConfig, vocabulary: int, image_token_id: int, image_tokens: int
) -> LlavaConfig:
    """LLaVA's config around both; `vocabulary` replaces that of `text`, which is left as it is.

    Reads the last hidden state of all patches: exactly what the quantizer reads (decision 1).
    """
    return LlavaConfig(
        vision_config=_without_provenance(tower),
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
    tower = _config_of(model.tower.architecture, "model.tower.architecture")
    if not isinstance(tower, SiglipVisionConfig):
        raise UserError(f"model.tower.architecture: model_type: {only_siglip(tower.model_type)}")
    text = _config_of(model.language_model.architecture, "model.language_model.architecture")
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


def _config_of(architecture: Architecture, where: str) -> PreTrainedConfig:
    fields = dict(architecture)
    try:
        return AutoConfig.for_model(str(fields.pop("model_type")), **fields)
    except Exception as error:  # transformers' strict configs raise their own kinds
        raise UserError(f"{where}: {one_line(error)[:300]}") from error


def _without_provenance(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a config, without where it came from and in which precision."""
    left_out = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {field: value for field, value in config.to_dict().items() if field not in left_out}


def numel(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, also where it is partitioned."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _size(module: nn.Module) -> int:
    return sum(numel(parameter) for parameter in module.parameters())
