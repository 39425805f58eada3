"""Dead codes come back where features are now.

What is notable here: a code's vector is C W, and W learns while C does not. So a dead row of C is set to what
W carries onto a recent feature, z W^-1. The rows of live codes, W and the optimizer's states of W stay as
they are, bit for bit. The moving average has the same C and its own W; the revived code stands as far from
the feature there as the two W differ, which training closes.

Legend: K codes, E code width, n revived codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common import dist
from common.data.order import derive_key
from common.models.quantizer import SimVQ

# Directions that W shrinks below this share of its largest singular value are left out of its inverse: there a row of C
# would have to be huge.
SMALLEST = 1e-4


@torch.no_grad()
def revive(quantizer: SimVQ, dead: Tensor, features: Tensor, seed: int, step: int) -> int:
    """Move dead codes onto features drawn from this step's; equal on all ranks, which call it together.

    Args:
        dead: bool (K,), the same on all ranks.
        features: what this rank's quantizer read (B, N, D), as many on every rank.
        seed, step: the draw follows from them, and from the rank.

    Returns:
        how many codes were moved: less than are dead where there are fewer features, none where one is not
            finite.
    """
    points = quantizer.embed(features).flatten(0, -2)
    rows = dead.nonzero().flatten()
    generator = torch.Generator().manual_seed(derive_key(seed, "revival", step) % 2**63)
    rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    rows = rows[: len(points) * dist.world()]
    mine = torch.arange(len(rows), device=rows.device) % dist.world() == dist.rank()
    generator.manual_seed(derive_key(seed, "revival", step, dist.rank()) % 2**63)
    picked = torch.randperm(len(points), generator=generator)[: int(mine.sum())]
    targets = points.new_zeros(len(rows), points.shape[-1])
    targets[mine] = points[picked.to(points.device)]
    dist.sum_(targets)  # each row is one rank's; the others add zeros
    if not len(rows) or not torch.isfinite(targets).all():
        return 0
    # A linear layer computes C W as C @ weight.T.
    weight = quantizer.transform.weight.double()
    found = (targets.double() @ torch.linalg.pinv(weight.T, rtol=SMALLEST)).float()
    quantizer.codebook[rows] = dist.broadcast_(found)
    return len(rows)
