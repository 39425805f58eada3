"""How codes are drawn: every setting explicit, none inherited from a model's `generation_config`.

Guidance strength s mixes two predictions of the same model, with and without the prompt: u + s (c - u) on the logits.
s = 1 is the conditional prediction alone, and costs half; s = 0 ignores the prompt.
"""

from __future__ import annotations

import math
from typing import Literal

from common.config import configclass

Schedule = Literal["constant", "linear", "cosine"]


@configclass
class Sampling:
    """Settings of the sampler. The defaults are ours; every result records what it was made with.

    Args:
        cfg_scale: s, 0 or more.
        cfg_schedule: constant, or growing from 1 before the first code to `cfg_scale` at the last.
        cfg_interval: (start, stop) as shares of the codes, in [0, 1]; outside of it s = 1, and the unconditional
            rows are not computed.
        temperature: divides the logits, over 0.
        top_k: draw from the k most likely codes only; None: from all.
        top_p: then from the fewest codes whose probabilities sum up to at least this, in (0, 1].
        greedy: the most likely code; temperature, top_k, top_p and the seed then change nothing.
    """

    cfg_scale: float = 5.0
    cfg_schedule: Schedule = "constant"
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        start, stop = self.cfg_interval
        if not (math.isfinite(self.cfg_scale) and self.cfg_scale >= 0):
            raise ValueError(f"cfg_scale: expected 0 or more, found {self.cfg_scale}")
        if self.cfg_schedule not in ("constant", "linear", "cosine"):
            raise ValueError(
                f"cfg_schedule: expected constant, linear or cosine, found {self.cfg_schedule!r}"
            )
        if not 0 <= start <= stop <= 1:
            raise ValueError(f"cfg_interval: expected 0 <= start <= stop <= 1, found {start}, {stop}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"temperature: expected over 0, found {self.temperature}; greedy takes the most likely"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected 1 or more, or none for all codes, found {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected over 0 and at most 1, found {self.top_p}")

    def check(self, codebook_size: int) -> None:
        """Raises `ValueError` if `top_k` is over K."""
        if self.top_k is not None and self.top_k > codebook_size:
            raise ValueError(f"top_k: expected at most the {codebook_size} codes, found {self.top_k}")

    def scales(self, steps: int) -> list[float]:
        """s of each code; those that differ from 1 are neighbours."""
        first, last = (math.ceil(share * steps - 1e-9) for share in self.cfg_interval)
        return [self._scale((step + 1) / steps) if first <= step < last else 1.0 for step in range(steps)]

    def _scale(self, share: float) -> float:
        if self.cfg_schedule == "linear":
            grown = share
        elif self.cfg_schedule == "cosine":
            grown = (1 - math.cos(math.pi * share)) / 2
        else:
            grown = 1.0
        return 1 + grown * (self.cfg_scale - 1)
