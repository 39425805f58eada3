"""How much of the codebook is used: counted over a whole set and all ranks (decision 7 of the method)."""

from __future__ import annotations

import torch
from torch import Tensor

from common import dist


class CodeUsage:
    """Counts of each code; one (K,) vector on the device, all-reduced when it is read."""

    def __init__(self, codebook_size: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.int64, device=device)

    def update(self, codes: Tensor) -> None:
        """Codes of any shape, int64 in [0, K)."""
        flat = codes.flatten().to(self.counts.device)
        self.counts.index_add_(0, flat, torch.ones_like(flat))  # bincount would wait for the device

    def compute(self) -> dict[str, float]:
        """`usage` in [0, 1], `perplexity` in [1, K] (the exponential of the codes' entropy), `dead_codes` and
        `tokens_per_code`; the same on all ranks."""
        counts = dist.sum_(self.counts.clone()).double()
        total = counts.sum().clamp_min(1)
        share = counts / total
        entropy = -torch.special.xlogy(share, share).sum()
        used = (counts > 0).sum()
        return {
            "usage": float(used / counts.numel()),
            "perplexity": float(entropy.exp()),
            "dead_codes": float(counts.numel() - used),
            "tokens_per_code": float(counts.sum() / counts.numel()),
        }

    def take(self) -> dict[str, float]:
        """Usage and perplexity of the codes seen since the last call; then starts anew."""
        values = self.compute()
        self.counts.zero_()
        return {key: values[key] for key in ("usage", "perplexity")}
