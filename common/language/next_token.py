"""What a language model minimises, computed where something is learned and nowhere else.

Logits are the largest tensor of a step by far: B L V numbers, of which a caption with its picture, or a question with
its answer, needs a part. So the head sees the M positions that predict, and perhaps a slice of its V rows only.

Legend: B rows, L tokens a row, d width, M positions that predict, V rows of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def next_token_loss(
    hidden: Tensor,
    predictors: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    reduction: Literal["mean", "sum"],
) -> tuple[Tensor, Tensor]:
    """Cross entropy in float32, and what the model would have said.

    Args:
        hidden: (B, L, d), the last hidden states.
        predictors: int64 (M,), flat positions in B L that predict ...
        targets: int64 (M,), ... these rows of the head. M may be 0.
        head: (M, d) -> logits (M, V), or of a slice of V. It is called whatever M is: under ZeRO-3 all ranks call it.
        reduction: over M. The mean over no position counts as 0, too.

    Returns:
        The loss in nats, a scalar with a gradient, and the likeliest rows, int64 (M,).
    """
    flat = hidden.flatten(0, 1)
    if not len(targets):
        return 0 * head(flat[:1]).float().sum(), targets
    logits = head(flat.index_select(0, predictors)).float()
    return F.cross_entropy(logits, targets, reduction=reduction), logits.detach().argmax(-1)
