"""ZeRO-3 from the first byte on: every parameter is partitioned as it comes."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from torch import Tensor, nn


class Partition:
    """Partitions parameters over all ranks, with the values that rank 0 has.

    Args:
        settings: DeepSpeed's config, with ZeRO stage 3; says also where the parts rest (device, CPU or NVMe).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.convert: Any = None

    def __call__(self, parameter: Any) -> None:
        """Partition a `nn.Parameter`; all ranks call this in the same order."""
        if self.convert is not None:
            self.convert(param_list=[parameter])
            return
        # The first one goes through DeepSpeed's entrance, which also replaces torch's linear function for the whole
        # process; `save_memory` does the same for one model only.
        linear = torch.nn.functional.linear
        try:
            deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=self.settings)
        finally:
            torch.nn.functional.linear = linear
        self.convert = parameter.convert_to_zero_parameters


class PartitionedLinear(nn.Linear):
    """A linear layer that keeps no reference to its gathered weight between the forward and the backward pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        return zero3_linear_wrap(inputs, self.weight, self.bias)


def save_memory(module: nn.Module) -> None:
    """Make all linear layers below `module` `PartitionedLinear`; else every rank would hold all weights at the end of
    a forward pass."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = PartitionedLinear
