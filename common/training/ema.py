"""An exponential moving average of the trained weights, sharded over ranks.

TiTok trains with one (decay min(0.999, (1 + t) / (10 + t))); the paper is silent. Each rank keeps the average
of its share of the parameters, so it costs 4 / world bytes per parameter; whole weights exist only while they
are evaluated or saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from common import dist
from common.training.engine_state import share_out

MAX_DECAY = 0.999


class ShardedEMA:
    """The moving average of all parameters of `model` that require a gradient (replicated on all ranks)."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.owner = share_out({name: p.numel() for name, p in self.parameters.items()}, dist.world())
        self.begin()

    def begin(self) -> None:
        """From the weights as they are now."""
        self.updates = 0
        self.shadow = {
            name: p.detach().float().clone()
            for name, p in self.parameters.items()
            if self.owner[name] == dist.rank()
        }

    @property
    def decay(self) -> float:
        """The decay of the next update."""
        return min(MAX_DECAY, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """After each optimizer step."""
        names = list(self.shadow)
        if names:
            now = [self.parameters[name].detach().float() for name in names]
            torch._foreach_lerp_([self.shadow[name] for name in names], now, 1 - self.decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, its own weights again outside. All ranks enter together."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if name in self.shadow:
                    parameter.copy_(self.shadow[name])
                dist.broadcast_(parameter.data, self.owner[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(own[name])

    def state_dict(self) -> dict[str, int]:
        """What is the same on all ranks."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]

    def tensors(self) -> Iterator[tuple[str, Tensor | None]]:
        """Each parameter's name and its average, on the rank that keeps it; None on the others."""
        for name in self.parameters:
            yield name, self.shadow.get(name)

    def load_tensors(self, read: Callable[[str], Tensor]) -> None:
        """`read` gives what `tensors` gave, on however many ranks; this one takes what is its share now."""
        for name, average in self.shadow.items():
            average.copy_(read(name))


def averaged(ema: ShardedEMA | None) -> AbstractContextManager[None]:
    """Inside, the model holds its moving average, if one is kept."""
    return ema.applied() if ema is not None else nullcontext()
