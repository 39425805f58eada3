"""What understanding minimises: the cross entropy of an answer's tokens, given pictures and text before them.

What is notable here: the tower stays outside the DeepSpeed engine. The engine wraps `LanguageSide`, the library's
own LLaVA model without its tower, and every rank runs the projector in every micro-batch, also where no image
came along; so ZeRO-3 never waits for a rank that took another path. The head is computed where there is something
to learn and nowhere else.

Legend: B rows, L tokens a row, I images, N tokens an image, D tower width, M predicted tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from common.language.next_token import next_token_loss


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
        return next_token_loss(hidden, predictors, targets, self.llava.lm_head, "sum")

    def _with_images(self, inputs: Tensor, places: Tensor, features: Tensor | None, images: int) -> Tensor:
        """Embeddings (B, L, H) with the projected features at `places` (B, L)."""
        projector: Any = self.llava.model.multi_modal_projector
        weight, width = projector.linear_1.weight, projector.linear_1.in_features
        if features is None or not images:
            # The same modules as every other rank; what comes out of them counts for nothing.
            blank = torch.zeros(1, 1, width, dtype=weight.dtype, device=inputs.device)
            return inputs + 0 * projector(blank).sum().to(inputs.dtype)
        projected = projector(features.to(inputs.device, weight.dtype, non_blocking=True))
        return inputs.masked_scatter(places.unsqueeze(-1), projected.to(inputs.dtype))
