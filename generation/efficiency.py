"""How fast training is, and which share of a GPU's peak it reaches (see `common/training/efficiency.py`).

Counted on real tokens, the head at the positions and rows that the loss reads. The VQRAE that encodes pictures while
training is left out: extracted codes cost nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from common.training.efficiency import Efficiency, attention_flops, weight_flops
from generation.config import LossVocabulary
from generation.dataset import Batch
from generation.vocabulary import VisualVocabulary


class GenerationEfficiency(Efficiency):
    """Counts of a micro-batch: pictures, tokens, positions and operations.

    Args:
        model: the language model, on any device.
    """

    def __init__(
        self, model: Any, vocabulary: VisualVocabulary, over: LossVocabulary, device: torch.device
    ) -> None:
        super().__init__(device)
        shape = model.config
        self._layers, self._codes = shape.num_hidden_layers, vocabulary.image_tokens
        self._width = shape.num_attention_heads * shape.head_dim
        tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        embeddings = sum(table.numel() for table in {id(table): table for table in tables}.values())
        body = sum(parameter.numel() for parameter in model.parameters()) - embeddings
        self._token = weight_flops(body, learns=True)
        rows = vocabulary.codebook_size if over == "codes" else vocabulary.rows
        self._head = weight_flops(rows * shape.hidden_size, learns=True)

    def count(self, batch: Batch) -> dict[str, float]:
        """Of one micro-batch; tokens are real ones, positions also the padded ones."""
        # The last code is not read.
        lengths = [length + self._codes - 1 for length in batch["prompt_lengths"]]
        attention = sum(
            length * attention_flops(self._layers, self._width, length, causal=True, passes_gradient=True)
            for length in lengths
        )
        return {
            "images": batch["samples"],
            "tokens": sum(lengths),
            "positions": batch["input_ids"].numel(),
            "flops": sum(lengths) * self._token + len(batch["targets"]) * self._head + attention,
        }
