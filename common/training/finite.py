"""Which tensors of a run are not finite, by name; each rank looks at what it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of those that hold a NaN or an infinity; the host waits once for each device."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            by_kind.setdefault((tensor.device, tensor.dtype), []).append((name, tensor))
    found: list[str] = []
    for named in by_kind.values():
        # The largest magnitude: one pass without a copy, and NaN prevails.
        largest = torch.stack(torch._foreach_norm([tensor for _, tensor in named], math.inf))
        found += [
            name for (name, _), value in zip(named, largest.tolist(), strict=True) if not math.isfinite(value)
        ]
    return found


def weights(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of an engine's model; under ZeRO-3 this rank's pieces."""
    for name, parameter in engine.module.named_parameters():
        yield name, getattr(parameter, "ds_tensor", parameter).detach()
    yield from engine.module.named_buffers()


def optimizer_tensors(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """What this rank's optimizer holds: float32 weights, and moments by their names."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for number, (weight, state) in enumerate(inner.state.items()):
        yield f"optimizer's weights {number}", weight.detach()
        for name, value in state.items():
            if isinstance(value, Tensor):
                yield f"optimizer's {name} {number}", value
