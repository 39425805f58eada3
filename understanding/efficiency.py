"""How fast training is, and which share of a GPU's peak it reaches (see `common/training/efficiency.py`)."""

from __future__ import annotations

import torch

from common.training.efficiency import Efficiency, attention_flops, weight_flops
from understanding.batches import Batch
from understanding.config import ModelConfig
from understanding.model import stated_config
from understanding.sizes import count_parameters


class UnderstandingEfficiency(Efficiency):
    """Counts of a micro-batch: samples, tokens, positions and operations.

    A frozen language model still passes the gradient on to the projector; the tower runs forward only.
    """

    def __init__(self, model: ModelConfig, device: torch.device) -> None:
        super().__init__(device)
        counts, config = count_parameters(model), stated_config(model)
        text, vision = config.text_config, config.vision_config
        head = text.vocab_size * text.hidden_size
        embeddings = head if text.tie_word_embeddings else 2 * head  # looking up costs nothing
        learns = "language_model" in model.train and model.lora is None
        body = weight_flops(counts.language_model - embeddings, learns=learns)
        self._token = float(body + weight_flops(counts.adapters, learns=True))
        self._head = weight_flops(head, learns=learns)
        self._layers, self._width = text.num_hidden_layers, text.hidden_size
        tower = weight_flops(counts.tower, learns=False, passes_gradient=False) + attention_flops(
            vision.num_hidden_layers,
            vision.hidden_size,
            model.image_tokens,
            causal=False,
            passes_gradient=False,
        )
        projector = weight_flops(counts.projector, learns=True, passes_gradient=False)
        self._image = model.image_tokens * (tower + projector)

    def count(self, batch: Batch) -> dict[str, float]:
        """Of one micro-batch; tokens are real ones, positions also the padded ones."""
        documents = document_lengths(batch)
        tokens = sum(documents)
        attention = sum(
            length * attention_flops(self._layers, self._width, length, causal=True, passes_gradient=True)
            for length in documents
        )
        images, learned = len(batch["pixel_values"]), len(batch["targets"])
        return {
            "samples": batch["samples"],
            "tokens": tokens,
            "positions": batch["input_ids"].numel(),
            "flops": tokens * self._token + learned * self._head + images * self._image + attention,
        }


def document_lengths(batch: Batch) -> list[int]:
    """Real tokens of each sample of a micro-batch, padded or packed."""
    if batch["position_ids"] is not None:
        (starts,) = torch.nonzero(batch["position_ids"][0] == 0, as_tuple=True)
        ends = torch.cat([starts[1:], torch.tensor([batch["input_ids"].shape[1]])])
        return (ends - starts).tolist()
    assert batch["attention_mask"] is not None
    return batch["attention_mask"].sum(1).tolist()
