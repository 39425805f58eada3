"""What ZeRO keeps on each GPU, from counts alone (arXiv 1910.02054). Activations come on top."""

from __future__ import annotations

from common.training.engine import Precision

MOMENTS = 8  # bytes of AdamW's two, float32
MASTER = 4  # bytes of ZeRO's own float32 copy of what it updates


def zero_bytes(trained: int, frozen: int, stage: int, ranks: int, precision: Precision) -> float:
    """Bytes of weights, gradients and optimizer states on one of `ranks` GPUs.

    Args:
        trained, frozen: parameters inside the engine.
    """
    size = 2 if precision == "bf16" else 4
    master = MASTER if stage or precision == "bf16" else 0
    optimizer = (MOMENTS + master) * trained / (ranks if stage >= 1 else 1)
    gradients = size * trained / (ranks if stage >= 2 else 1)
    weights = size * (trained + frozen) / (ranks if stage >= 3 else 1)
    return weights + gradients + optimizer
