"""What a line must say aloud, since everything else looks healthy: a reward that teaches nothing, a sampler that draws
what the policy does not.

Known from others' runs (UniRL): a reward that was 0 for every picture, whose gradient was 0, with all other figures
looking as they should.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from common import dist

LARGEST_GAP = 0.2
"""Nats a code. Roundings of bfloat16 are about 0.01 to 0.05; a sampler with stale weights is beyond it soon."""


class PartWatch:
    """The extremes of each part of the reward between two lines, over all ranks."""

    def __init__(self) -> None:
        self._extremes: dict[str, tuple[float, float]] = {}
        self._since: int | None = None

    def see(self, step: int, parts: Mapping[str, Tensor]) -> None:
        """This rank's scores of a step, by part."""
        self._since = self._since or step
        for name, scores in parts.items():
            low, high = self._extremes.get(name, (math.inf, -math.inf))
            self._extremes[name] = (min(low, float(scores.min())), max(high, float(scores.max())))

    def warnings(self, step: int) -> list[str]:
        """Parts that gave every picture since the last call the same; then starts anew. All ranks call it together."""
        ranks, since = dist.gather_objects(self._extremes), self._since or step
        self._extremes, self._since = {}, None
        told = []
        steps = f"step {step}" if since == step else f"steps {since} to {step}"
        for name in ranks[0]:
            low = min(rank[name][0] for rank in ranks)
            high = max(rank[name][1] for rank in ranks)
            if low == high:
                how = "0, always" if high == 0 else f"{high:.4g}, the same for all"
                told.append(f"warning: reward {name}: every picture of {steps} got {how}: it teaches nothing")
        return told


def line_warnings(line: Mapping[str, float]) -> list[str]:
    """What the figures of a line mean."""
    told = []
    if line["equal_groups"] == 1:
        told.append(
            "warning: equal_groups 1: no group has a better and a worse picture, so no reward is learned from"
        )
    if line["grad_norm"] == 0:
        told.append("warning: grad_norm 0: nothing was learned in the last step of this line")
    if line["sampler_gap"] > LARGEST_GAP:
        told.append(
            f"warning: sampler_gap {line['sampler_gap']:.3g}: the sampler gives its codes other probabilities than the "
            f"policy does, by more than {LARGEST_GAP:g} nats: it draws from other weights, or in too narrow numbers"
        )
    return told
