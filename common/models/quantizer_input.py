"""What the quantizer reads of a tower: its last hidden state, as in the paper, or the mean of several.

What is notable here: the paper quantizes Z_I, whose last layers have learned to forget what a picture's meaning does
not need. RAEv2 sums a tower's last K layers instead of reading the last alone, and a decoder then restores far more
of the picture; here any of the hidden states may be named, the embeddings among them. A tower runs once: Z_I, which a
language model reads, is the last state whatever the quantizer reads.

A mean and no sum: SimVQ standardises each channel by statistics that it has measured, after which the two are one but
for rounding, and a mean stays of the same size however many states are named.

Legend: B images, N tokens, D encoder width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

if TYPE_CHECKING:  # recipes are read by way of this file, without a model library
    from common.models.vision_encoder import VisionEncoder

EPS = 1e-6
"""Of the variance over a token's channels, as in SigLIP's own layer norms."""


class Reading(NamedTuple):
    """Of one pass through a tower: `features` Z_I (B, N, D), what a language model reads; and `quantizer_input`
    (B, N, D), what is quantized: the same tensor where the quantizer reads the last state alone."""

    features: Tensor
    quantizer_input: Tensor


def read(tower: VisionEncoder, pixels: Tensor, layers: Sequence[int] | None) -> Reading:
    """RGB in [0, 1] (B, 3, H, W) at the tower's resolution -> both that are read from it, in one pass.

    Args:
        layers: numbers of hidden states, see `VisionEncoder.hidden_states`; None: Z_I, as it is.
    """
    if layers is None:
        features = tower(pixels)
        return Reading(features, features)
    features, states = tower(pixels, layers)
    return Reading(features, mean_of_normalised(states))


def mean_of_normalised(states: Sequence[Tensor]) -> Tensor:
    """Hidden states (B, N, D), each standardised over the channels of every token -> their mean, float32 (B, N, D).

    Residual streams grow from layer to layer; without it the last would count for nearly all.
    """
    with torch.autocast(states[0].device.type, enabled=False):
        normalised = [layer_norm(state.float(), state.shape[-1:], eps=EPS) for state in states]
        return torch.stack(normalised).mean(dim=0)


def layers_problem(layers: Sequence[int] | None, depth: int) -> str | None:
    """What is wrong with the hidden states that are named of a tower of `depth` layers; None where nothing is."""
    if layers is None:
        return None
    if layers and all(0 <= layer <= depth for layer in layers) and sorted(set(layers)) == list(layers):
        return None
    return (
        f"expected numbers of hidden states, ascending and each once, from 0 (the embeddings) to {depth} (after the "
        f"last layer), or null for the last as it is; found {list(layers)}"
    )
