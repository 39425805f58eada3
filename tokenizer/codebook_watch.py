"""How much of the codebook is used while training: a warning when it stays low, and which codes are dead then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common import dist
from common.config import Count, Share, Weight, configclass
from common.metrics.code_usage import CodeUsage


@configclass
class CodebookWatchConfig:
    """When too little of the codebook is used.

    Args:
        min_usage: share of codes used between two lines; where fewer tokens than codes were seen, of so many codes.
        min_perplexity: of the codes between two lines, from 0 (never too low) to the codebook's size.
        lines: a warning comes after so many lines below a bound, and again after so many more.
        revive: also move the codes that none of these lines used onto recent features
            (`tokenizer/codebook_revival.py`).
    """

    min_usage: Share = 0.1
    min_perplexity: Weight = 0.0
    lines: Count = 5
    revive: bool = False


class CodebookWatch:
    """Counts of each code over the lines below the bound; the same decision on all ranks.

    Args:
        say: what takes the warning.
    """

    def __init__(self, config: CodebookWatchConfig, usage: CodeUsage, say: Callable[[str], None]) -> None:
        self.config, self.usage, self.say = config, usage, say
        self.counts = torch.zeros_like(usage.counts)  # by this rank, before the running line
        self.low = 0

    def line(self) -> tuple[dict[str, float], Tensor | None]:
        """What `CodeUsage.take` gives for this line; and, where the codebook was used too little for `lines`
        lines, bool (K,) of the codes that none of them used, if they are to be revived. Called by all ranks
        together."""
        self.counts += self.usage.counts
        tokens_per_code = self.usage.compute()["tokens_per_code"]
        values = self.usage.take()
        usage = values["usage"] / max(min(1.0, tokens_per_code), 1e-12)  # of the codes that could be used
        too_low = usage < self.config.min_usage or values["perplexity"] < self.config.min_perplexity
        self.low = self.low + 1 if too_low else 0
        if self.low < self.config.lines:
            if not too_low:
                self.counts.zero_()
            return values, None
        dead = dist.sum_(self.counts.clone()) == 0
        self.say(
            f"warning: codebook_watch: usage {values['usage']:.3g} and perplexity {values['perplexity']:.4g} "
            f"were too low for {self.low} lines; {int(dead.sum())} of {len(dead)} codes were not used in them"
        )
        self.low = 0
        self.counts.zero_()
        return values, dead if self.config.revive else None

    def state_dict(self) -> dict[str, Any]:
        """Of all ranks together, which call it together."""
        counts = dist.sum_(torch.stack([self.counts, self.usage.counts])).cpu()
        return {"low": self.low, "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counts of all ranks go to the first: only their sum is ever read."""
        self.low = state["low"]
        before, running = state["counts"].to(self.counts.device) * int(dist.is_main())
        self.counts.copy_(before)
        self.usage.counts.copy_(running)
