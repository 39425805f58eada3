"""Zero-shot: which class's words a picture is nearest to, by a SigLIP checkpoint that has both towers.

A tokenizer's features go through the checkpoint's own last norm and pooling head, which training has not moved; if the
accuracy keeps up, the encoder still speaks the language of the text tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from common.errors import UserError, refusing
from common.models.weight_files import read_config_json

TEMPLATE = "This is a photo of {}."
"""SigLIP's own (big_vision), whose texts are in lower case."""
KINDS = ("siglip", "siglip2")


def has_both_towers(folder: Path) -> bool:
    """Whether a checkpoint's folder is SigLIP's with vision and text."""
    try:
        return read_config_json(folder).get("model_type") in KINDS
    except UserError:
        return False


class TextTower:
    """Both towers at `folder`.

    Raises:
        UserError: they are not there, or no tokenizer beside them.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer, SiglipModel

        if not has_both_towers(folder):
            raise UserError(
                f"{folder}: expected a SigLIP checkpoint with both towers (its model_type is siglip)"
            )
        with refusing(f"{folder}: expected a SigLIP checkpoint with both towers"):
            model: Any = SiglipModel.from_pretrained(str(folder))
            self.model = model.float().eval().requires_grad_(False).to(device)
        with refusing(f"{folder}: expected the text tower's tokenizer"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        self.device = device

    @torch.inference_mode()
    def classes(self, names: Sequence[str]) -> Tensor:
        """Normalised embeddings (classes, E) of classes' names, `_` read as a space."""
        texts = [TEMPLATE.format(name.replace("_", " ")).lower() for name in names]
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        words = self.model.text_model(input_ids=tokens["input_ids"].to(self.device))
        return normalize(words.pooler_output, dim=-1)

    @torch.inference_mode()
    def pictures(self, features: Tensor) -> Tensor:
        """Z_I (B, N, D) -> normalised embeddings (B, E)."""
        vision = self.model.vision_model
        return normalize(vision.head(vision.post_layernorm(features.float())), dim=-1)
