"""The distribution that the sampler draws from, as something that learns.

    log p(code | codes before it, prompt) = log softmax((u + s (c - u)) / temperature), over the K codes

What is notable here: with guidance s both predictions, c with the prompt and u without, are rows of one forward pass
and both have gradients, so what learns is what draws and not its conditional half. Logits are those of the K codes
alone.

Legend: B pictures, N codes of each, L tokens of a padded row, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generation.dataset import SequenceBuilder
from generation.vocabulary import VisualVocabulary


class Rows(NamedTuple):
    """Pictures as the language model reads them: with guidance 2 B rows, the unconditional ones behind."""

    input_ids: Tensor  # int64 (B or 2 B, L), padded on the right
    predictors: Tensor  # int64 (B N or 2 B N,): flat positions that predict a code
    codes: Tensor  # int64 (B, N)


@dataclass
class PolicyOutput:
    """log_probs (B, N) of the codes, in nats, with a gradient; entropy, the mean over codes in nats, a scalar, with one
    only if it was asked for."""

    log_probs: Tensor
    entropy: Tensor


class Policy(nn.Module):
    """A generator with its settings of drawing: what the engine wraps.

    Args:
        language_model: a `...ForCausalLM` with the visual vocabulary.
        scale: guidance s; 1 is the conditional prediction alone.
        entropy_learns: whether entropy has a gradient.
    """

    def __init__(
        self,
        language_model: Any,
        vocabulary: VisualVocabulary,
        scale: float,
        temperature: float,
        entropy_learns: bool = False,
    ) -> None:
        super().__init__()
        self.language_model, self.vocabulary = language_model, vocabulary
        self.scale, self.temperature, self.entropy_learns = scale, temperature, entropy_learns

    def rows(self, builder: SequenceBuilder, texts: list[str], codes: Tensor) -> Rows:
        """Prompts and codes (B, N) -> rows, on the CPU."""
        captions: list[str | None] = [*texts]
        read = codes
        if self.scale != 1:
            captions, read = [*captions, *[None] * len(texts)], codes.repeat(2, 1)
        batch = builder(read.unflatten(1, self.vocabulary.grid), captions, positions=None)
        return Rows(batch["input_ids"], batch["predictors"], codes.cpu())

    def forward(self, input_ids: Tensor, predictors: Tensor, codes: Tensor) -> PolicyOutput:
        """The fields of `Rows` -> log-probabilities and entropy, float32."""
        hidden = self.language_model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        head = self.language_model.get_output_embeddings().weight[self.vocabulary.code_slice]
        logits = F.linear(hidden.flatten(0, 1).index_select(0, predictors), head).float()
        if self.scale != 1:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + self.scale * (conditional - unconditional)
        logits = logits / self.temperature
        total = logits.logsumexp(-1, keepdim=True)
        chosen = (logits.gather(1, codes.reshape(-1, 1)) - total).view(codes.shape)
        with torch.set_grad_enabled(self.entropy_learns and torch.is_grad_enabled()):
            likely = logits - total
            entropy = -(likely.exp() * likely).sum(-1).mean()
        return PolicyOutput(log_probs=chosen, entropy=entropy)
