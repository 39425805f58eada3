"""mPLUG's network: a picture and a question to what an answer is drawn from.

Source: Li et al., mPLUG (arXiv 2205.12005), as modelscope's `models/multi_modal/mplug` (Apache-2.0) runs it. CLIP's
vision tower sees the picture and BERT layers read the question; fusion layers let the words look at the patches, and at
every `stride` of them words and patches look at one another ("connected attention"). A BERT decoder that looks at both
answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, BertModel, CLIPVisionConfig, CLIPVisionModel
from transformers.models.bert.modeling_bert import BertLayer

HEAD_WIDTH = 64  # of CLIP's towers, whatever their width


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What config.yaml and its BERT config say of the network; as released where nothing is given.

    Args:
        image_size: px of a side, a multiple of `patch_size`.
        bert: fields of transformers' `BertConfig` that all BERT layers share.
    """

    image_size: int = 504
    patch_size: int = 14
    vision_layers: int = 24
    vision_width: int = 1024
    text_layers: int = 6
    fusion_layers: int = 6
    decoder_layers: int = 12
    stride: int = 6
    bert: Mapping[str, Any] = field(default_factory=dict)


RELEASED = Architecture()


class Mplug(nn.Module):
    """The network, with random weights (see `checkpoint.load`).

    Legend: Q questions, P patches and the class token, T tokens of a question, D width of BERT.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=architecture.vision_width,
                intermediate_size=4 * architecture.vision_width,
                num_hidden_layers=architecture.vision_layers,
                num_attention_heads=architecture.vision_width // HEAD_WIDTH,
                image_size=architecture.image_size,
                patch_size=architecture.patch_size,
            )
        )
        bert = {**architecture.bert, "attn_implementation": "sdpa"}
        looking = {**bert, "is_decoder": True, "add_cross_attention": True}
        text = BertConfig(**{**bert, "num_hidden_layers": architecture.text_layers})
        self.visn_fc = nn.Linear(architecture.vision_width, text.hidden_size)
        self.visn_layer_norm = nn.LayerNorm(text.hidden_size, eps=1e-12)
        self.text_encoder = BertModel(text, add_pooling_layer=False)
        self.fusion = nn.ModuleList(
            BertLayer(BertConfig(**looking)) for _ in range(architecture.fusion_layers)
        )
        self.text_decoder = BertLMHeadModel(
            BertConfig(**{**looking, "num_hidden_layers": architecture.decoder_layers, "use_cache": True})
        )
        self._stride = architecture.stride

    def see(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, (1, 3, size, size) -> what the question's words look at, (1, P, D)."""
        patches = self.vision.post_layernorm(self.vision(pixels).last_hidden_state)
        return self.visn_layer_norm(self.visn_fc(patches))

    def read(self, seen: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Questions about one picture -> what their answers are drawn from.

        Args:
            seen: of `see`.
            ids: (Q, T). mask: (Q, T), 1 where a token is, 0 where the row is filled up.

        Returns:
            Patches and words, (Q, P + T, D), and their mask, (Q, P + T).
        """
        words = self.text_encoder(ids, attention_mask=mask).last_hidden_state
        patches = seen.expand(len(ids), -1, -1)
        mask = torch.cat([mask.new_ones(patches.shape[:2]), mask], dim=1)
        hidden = torch.finfo(words.dtype).min * (1 - mask[:, None, None, :].to(words.dtype))
        length = patches.shape[1]
        layer: Any
        for number, layer in enumerate(self.fusion):
            if number and number % self._stride == 0:
                both = layer.attention(torch.cat([patches, words], dim=1), hidden)[0]
                both = layer.feed_forward_chunk(both)
                patches, words = patches + both[:, :length], both[:, length:]
            else:
                words = layer(words, hidden[..., length:], patches)
        return torch.cat([patches, words], dim=1), mask
