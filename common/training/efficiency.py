"""Floating-point operations of a training step, and which share of a GPU's peak they are (MFU, arXiv 2204.02311).

Counted are useful operations: matrix products with the weights, and attention's own two, on real tokens; padding
and what activation checkpointing computes again are not.
"""

from __future__ import annotations

import torch

from common import dist
from common.training.peaks import PEAKS


def peak_flops(device: torch.device) -> float | None:
    """Operations per second that the device could do in bfloat16; None where that is not known, as on a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS if part in name), None)


class Efficiency:
    """What a run's rates say; each trainer counts its own micro-batches into a `Stopwatch`.

    Args:
        device: of this rank; the ranks' are alike.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak = peak_flops(device)

    def rates(self, watch: dict[str, float]) -> dict[str, float]:
        """What `Stopwatch.take` gave, for a line: the share of padding where positions are counted beside tokens, and
        `mfu` in the place of operations where the GPU's peak is known."""
        flops, positions = watch.pop("flops_per_second"), watch.pop("positions_per_second", None)
        if positions is not None:
            watch["padding"] = 1 - watch["tokens_per_second"] / max(positions, 1e-9)
        if self.peak is not None:
            watch["mfu"] = flops / (self.peak * dist.world())
        return watch


def weight_flops(parameters: int, *, learns: bool, passes_gradient: bool = True) -> int:
    """Operations per token of the products with `parameters` weights: two forward, two for the gradient of their
    input where it is needed, two for their own."""
    return parameters * (2 + 2 * passes_gradient + 2 * learns)


def attention_flops(layers: int, width: int, context: float, *, causal: bool, passes_gradient: bool) -> float:
    """Operations per token of attention's two products with `context` tokens, half of it where causal."""
    seen = context / 2 if causal else context
    return layers * 4 * width * seen * (3 if passes_gradient else 1)
