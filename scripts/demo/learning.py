"""How the demo's "foundation models" learn: steps on a processor, in bfloat16 where it has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

WARM_UP = 20  # steps


def learn(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    next_loss: Callable[[], Tensor],
    steps: int,
    *,
    rate: float,
    bf16: bool,
    progress: tqdm,
) -> list[float]:
    """Take `steps`, each on the loss that `next_loss` gives; the losses.

    Args:
        rate: reached after a warm-up; from there a cosine to zero.
        progress: moved on by one a step.
    """
    losses: list[float] = []
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = next_loss()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.2f}", refresh=False)
        progress.update()
    return losses


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; emulated, they are slower than float32."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
