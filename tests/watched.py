"""A training run looked at from inside: what its engines are made of, and what their layers do at each step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import deepspeed
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


@dataclass
class Engine:
    """One engine of a run.

    Args:
        rates: for each optimizer step, group -> the rate that it was done with.
        dtypes: for each Linear with a name, what came out of it while it learned, and while it was only asked.
        passes: for each layer that can be checkpointed, how often it was computed while learning.
    """

    module: nn.Module
    engine: Any
    groups: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    rates: list[dict[str, float]] = field(default_factory=list)
    micro_steps: int = 0
    dtypes: dict[tuple[str, bool], set[torch.dtype]] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)

    @property
    def reentrant(self) -> set[bool]:
        """How its layers would be computed again: False is what goes with frozen inputs and two engines."""
        layers = [part for part in self.module.modules() if isinstance(part, GradientCheckpointingLayer)]
        return {layer._gradient_checkpointing_func.keywords["use_reentrant"] for layer in layers}

    def learned(self) -> set[str]:
        return {name for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def dtype(self, part: str, learning: bool = True) -> set[torch.dtype]:
        """Of all layers whose names contain `part`."""
        found = [kinds for (name, how), kinds in self.dtypes.items() if part in name and how is learning]
        return set().union(*found)


@contextmanager
def watched() -> Iterator[list[Engine]]:
    """The engines that are started inside, in their order."""
    engines: list[Engine] = []
    initialize = deepspeed.initialize

    def watch(**arguments: Any) -> Any:
        # Names and decay as they are handed over; ZeRO makes flat partitions of the rest.
        groups = {
            group["name"]: {key: value for key, value in group.items() if key != "params"}
            | {"params": [id(parameter) for parameter in group["params"]]}
            for group in arguments["optimizer"].param_groups
        }
        engine, *rest = initialize(**arguments)
        seen = Engine(arguments["model"], engine, groups, arguments["config"])
        engines.append(seen)
        _look(seen)
        return engine, *rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deepspeed, "initialize", watch)
        yield engines


def _look(seen: Engine) -> None:
    step = seen.engine.step

    def watch(*arguments: Any, **more: Any) -> Any:
        seen.micro_steps += 1
        if seen.engine.is_gradient_accumulation_boundary():
            seen.rates.append({group["name"]: group["lr"] for group in seen.engine.optimizer.param_groups})
        return step(*arguments, **more)

    seen.engine.step = watch

    def layer(name: str) -> Any:
        def count(module: nn.Module, inputs: Any) -> None:
            if torch.is_grad_enabled():
                seen.passes[name] = seen.passes.get(name, 0) + 1

        return count

    def linear(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen.dtypes.setdefault((name, torch.is_grad_enabled()), set()).add(output.dtype)

        return note

    for name, module in seen.module.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            seen.passes[name] = 0
            # Its first product, since what is computed again is not the call but the forward pass in it; and before
            # and not after it, since that ends as soon as all is there that was missing.
            first = next(part for part in module.modules() if isinstance(part, nn.Linear))
            first.register_forward_pre_hook(layer(name))
        if isinstance(module, nn.Linear):
            module.register_forward_hook(linear(name))
