"""How codes are drawn: every setting explicit. A generator's folder holds its own (see `sampling_file`).

Guidance strength s mixes two predictions of the same model, with and without the prompt: u + s (c - u) on the logits.
s = 1 is the conditional prediction alone, and costs half; s = 0 ignores the prompt.
"""

from __future__ import annotations

import math
from typing import Literal

from common.config import configclass

Schedule = Literal["constant", "linear", "cosine"]

# Beyond these, float32 logits overflow or all draws are the same: a slip of the keyboard, not a setting. Papers use
# 1 to 20 and 0.5 to 1.5.
MOST_GUIDANCE = 1000.0
TEMPERATURES = (1e-3, 1e3)


@configclass
class Sampling:
    """Settings of the sampler. The defaults, ours, are for generators that bring none; every result records its own.

    Args:
        cfg_scale: s, from 0 to `MOST_GUIDANCE`.
        cfg_schedule: constant, or growing from 1 before the first code to `cfg_scale` at the last.
        cfg_interval: (start, stop) as shares of the codes, in [0, 1]; outside of it s = 1, and the unconditional
            rows are not computed.
        temperature: divides the logits; within `TEMPERATURES`.
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
        if not 0 <= self.cfg_scale <= MOST_GUIDANCE:
            raise ValueError(f"cfg_scale: expected 0 to {MOST_GUIDANCE:g}, found {self.cfg_scale}")
        if self.cfg_schedule not in ("constant", "linear", "cosine"):
            raise ValueError(
                f"cfg_schedule: expected constant, linear or cosine, found {self.cfg_schedule!r}"
            )
        if not 0 <= start <= stop <= 1:
            raise ValueError(f"cfg_interval: expected 0 <= start <= stop <= 1, found {start}, {stop}")
        coldest, hottest = TEMPERATURES
        if not coldest <= self.temperature <= hottest:
            raise ValueError(
                f"temperature: expected {coldest:g} to {hottest:g}, found {self.temperature}; greedy takes the most "
                "likely"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected 1 or more, or none for all codes, found {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected over 0 and at most 1, found {self.top_p}")

    def check(self, codebook_size: int) -> None:
        """Raises `ValueError` if `top_k` is over K."""
        if self.top_k is not None and self.top_k > codebook_size:
            raise ValueError(f"top_k: expected at most the {codebook_size} codes, found {self.top_k}")

    def __str__(self) -> str:
        """`guidance 1.5, temperature 1, all codes`: what differs from the plainest is named."""
        guidance = f"guidance {self.cfg_scale:g}" if self.cfg_scale != 1 else "no guidance"
        if self.cfg_schedule != "constant":
            guidance += f" ({self.cfg_schedule})"
        if self.cfg_interval != (0.0, 1.0):
            guidance += f" from {self.cfg_interval[0]:g} to {self.cfg_interval[1]:g}"
        if self.greedy:
            return f"{guidance}, the most likely code"
        share = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        codes = "all codes" if self.top_k is None else f"top-k {self.top_k}"
        return f"{guidance}, temperature {self.temperature:g}, {codes}{share}"

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
