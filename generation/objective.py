"""What the generator minimises: cross-entropy of each code, given the text and the codes before it.

What is notable here: the model's head is applied to the positions that predict a code, and to the K rows of codes
only (decision 14), in place of V rows at all positions. For Qwen3-0.6B that is a tenth of the logits, and what is
learned is exactly the distribution that the sampler draws from.

Legend: B sequences, L their length, M positions that predict, d width, K codes, V rows of the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.language.next_token import next_token_loss
from generation.config import LossVocabulary
from generation.vocabulary import VisualVocabulary


@dataclass
class NextCodeOutput:
    """loss, the mean over M of the cross-entropy in nats; accuracy, the share of codes that are the likeliest.
    Scalars; the latter detached."""

    loss: Tensor
    accuracy: Tensor


class NextCode(nn.Module):
    """A causal language model with its loss: what the engine wraps.

    Args:
        language_model: a `...ForCausalLM` with the visual vocabulary.
    """

    def __init__(
        self, language_model: Any, vocabulary: VisualVocabulary, loss_vocabulary: LossVocabulary
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.vocabulary, self.loss_vocabulary = vocabulary, loss_vocabulary

    def forward(self, input_ids: Tensor, predictors: Tensor, targets: Tensor) -> NextCodeOutput:
        """Ids (B, L), padded on the right; flat positions (M,) in B L; the codes (M,) they predict -> the loss."""
        hidden = self.language_model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        head = self.language_model.get_output_embeddings().weight
        return next_code_loss(hidden, head, predictors, targets, self.vocabulary, self.loss_vocabulary)


def next_code_loss(
    hidden: Tensor,
    head: Tensor,
    predictors: Tensor,
    targets: Tensor,
    vocabulary: VisualVocabulary,
    over: LossVocabulary,
) -> NextCodeOutput:
    """Cross-entropy in float32.

    Args:
        hidden: (B, L, d). head: (V, d). predictors, targets: as `NextCode` takes them.
        over: what probabilities are normalised over; `codes` equals `full` with every other logit at minus infinity.
    """
    if over == "codes":
        head = head[vocabulary.code_slice]
    else:
        targets = targets + vocabulary.first_code
    loss, likeliest = next_token_loss(hidden, predictors, targets, lambda rows: F.linear(rows, head), "mean")
    return NextCodeOutput(loss=loss, accuracy=(likeliest == targets).float().mean())


def perplexity(loss: float) -> float:
    """Among how many codes a model with this loss (nats a code) still hesitates; infinite where a float ends."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
