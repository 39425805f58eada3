"""Values into a model that has no memory yet, one parameter at a time, so that no rank ever holds all of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common import dist
from common.models.weight_files import StoredTensor
from understanding.few_bits import few_bits, in_few_bits
from understanding.lora import plain_name


def fill(
    llava: nn.Module,
    stored: dict[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device,
    partition: Callable[[nn.Parameter], None] | None = None,
) -> None:
    """Give every parameter without memory its values; parameters that are tied stay tied."""
    reads = partition is None or dist.is_main()  # what is partitioned comes from rank 0
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for prefix, module in llava.named_modules():
        for leaf, empty in list(module.named_parameters(recurse=False)):
            if empty not in filled:
                name = plain_name(f"{prefix}.{leaf}")
                values = torch.empty(empty.shape, dtype=dtype, device=device)
                if name not in stored:
                    values.copy_(_random(module, empty.shape, name))
                elif reads:
                    values.copy_(_grown(stored[name].read(), empty.shape))
                if in_few_bits(empty):
                    filled[empty] = few_bits(empty, values)
                else:
                    filled[empty] = nn.Parameter(values, requires_grad=empty.requires_grad)
                if partition is not None:
                    partition(filled[empty])
            setattr(module, leaf, filled[empty])
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[leaf] = buffer.to(device)  # rotary frequencies, in float32 whatever the precision


def _random(linear: Any, shape: torch.Size, name: str) -> Tensor:
    """Start values of a linear layer of the projector, and of an adapter's A; its B is zero."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    bound = 1 / math.sqrt(linear.in_features)  # torch's own start, as in LLaVA and in LoRA
    return torch.empty(shape).uniform_(-bound, bound)


def _grown(stored: Tensor, shape: torch.Size) -> Tensor:
    """Rows of new tokens are the mean of all others: none of them is likelier than another."""
    new = shape[0] - stored.shape[0] if stored.ndim else 0
    if not new:
        return stored
    return torch.cat([stored, stored.float().mean(0, keepdim=True).expand(new, -1).to(stored.dtype)])
