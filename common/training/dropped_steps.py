"""Steps that are dropped since a gradient is not finite: at every ZeRO stage, and with the gradients' names.

DeepSpeed's own optimizers (ZeRO, bfloat16) look at the gradients' norm before they step, and drop a step whose norm
is not finite: no weight, no moment moves. Without ZeRO, an engine with float32 parameters steps torch's optimizer as
it is, and one bad gradient would go into every weight (clipping spreads it); `PlainStep` gives it the same rule.
Nothing here waits for the device: AdamW's kernel reads the flag there, and names are looked for only in a step that is
being dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class PlainStep:
    """Takes the place of a plain optimizer's `step`: norm, flag, clipping, and the step itself unless it is
    dropped.

    Sets `_global_grad_norm` on the optimizer (a scalar on the device), which DeepSpeed reports; and
    `found_inf`, 1.0 where the step was dropped, which AdamW's fused kernel obeys. For an optimizer that does
    not know it (Muon) the host waits for the flag, as ZeRO does, and sets `overflow`, by which DeepSpeed
    counts.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        self.optimizer: Any = optimizer
        self.max_norm = max_norm
        self.step = optimizer.step
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.bad: Tensor | None = None
        """bool (parameters,), on the device: whose gradient was not finite since the names were taken."""
        optimizer.step = self  # type: ignore[assignment, method-assign]

    @torch.no_grad()
    def __call__(self) -> None:
        here = [p for p in self.parameters if p.grad is not None]
        grads = [p.grad for p in here]
        norms = torch.stack(torch._foreach_norm(grads)).float()
        norm = torch.linalg.vector_norm(norms)
        dropped = ~torch.isfinite(norm)
        self._remember(here, ~torch.isfinite(norms))
        if self.max_norm:
            nn.utils.clip_grads_with_norm_(here, self.max_norm, norm)
        self.optimizer._global_grad_norm = norm
        self.optimizer.found_inf = dropped.float()
        if not self.optimizer.defaults.get("fused"):
            self.optimizer.overflow = bool(dropped)
            if self.optimizer.overflow:
                return
        self.step()

    def _remember(self, here: list[Tensor], bad: Tensor) -> None:
        if len(here) < len(self.parameters):
            places = {id(parameter): place for place, parameter in enumerate(here)}
            absent = bad.new_zeros(())
            bad = torch.stack([bad[places[id(p)]] if id(p) in places else absent for p in self.parameters])
        self.bad = bad if self.bad is None else self.bad | bad

    def take_bad(self) -> list[Tensor]:
        """The parameters whose gradient was not finite since the last call; waits for the device."""
        flags = [] if self.bad is None else self.bad.tolist()
        self.bad = None
        return [parameter for parameter, bad in zip(self.parameters, flags, strict=False) if bad]


class DroppedStepWatch:
    """For DeepSpeed's own optimizers: looks at the gradients of a step that is being dropped, before they are
    thrown away.

    Where that is follows from their `step`: they call `zero_grad` (`clear_hp_grads` in bfloat16 with float32
    gradients) with `overflow` set.
    """

    def __init__(self, optimizer: Any, parameters: Iterable[nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.parameters = [p for p in parameters if p.requires_grad]
        self.found: dict[int, Tensor] = {}
        for name in ("zero_grad", "clear_hp_grads"):
            if hasattr(optimizer, name):
                setattr(optimizer, name, self._looking_first(getattr(optimizer, name)))

    def _looking_first(self, clear: Any) -> Any:
        def look_and_clear(*arguments: Any, **named: Any) -> Any:
            if self.optimizer.overflow:
                self._look()
            return clear(*arguments, **named)

        return look_and_clear

    @torch.no_grad()
    def _look(self) -> None:
        pieces = [(p, piece) for p in self.parameters if (piece := local_gradient(p)) is not None]
        if pieces:
            bad = torch.stack([~torch.isfinite(piece).all() for _, piece in pieces]).tolist()
            self.found |= {id(p): p for (p, _), is_bad in zip(pieces, bad, strict=True) if is_bad}

    def take_bad(self) -> list[Tensor]:
        """This rank's parameters (or its pieces of them) whose gradient was not finite since the last call."""
        found, self.found = list(self.found.values()), {}
        return found


def local_gradient(parameter: Any) -> Tensor | None:
    """What this rank holds of a parameter's gradient between the backward pass and the end of a step, if anything."""
    if parameter.grad is not None:
        return parameter.grad
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_local_grad

        return safe_get_local_grad(parameter)
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is None:
        return None
    held = mapping.offload_gradient_dict if mapping.use_offload else mapping.gradient_dict
    if held.get(mapping.param_group_index) is None:
        return None
    return mapping.get_lp_grad_fragment(parameter._index_in_param_group)


def watch_dropped_steps(engine: Any) -> PlainStep | DroppedStepWatch:
    """What names the bad gradients of a DeepSpeed engine's dropped steps."""
    step = getattr(engine.optimizer, "step", None)
    if isinstance(step, PlainStep):
        return step
    return DroppedStepWatch(engine.optimizer, engine.module.parameters())


class Sentinel:
    """Whether this rank's own gradients were finite, before they meet those of other ranks.

    A NaN that is born anywhere in a backward pass travels on to the parameter nearest to the input; that one is
    watched.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        self.bad = torch.zeros(
            (), dtype=torch.bool, device=device
        )  # not its own: offloaded, it rests elsewhere
        first.register_hook(self._look)

    def _look(self, gradient: Tensor) -> None:
        self.bad = self.bad | ~torch.isfinite(gradient.sum())

    def end_step(self) -> Tensor:
        """A bool on the device, since the last call."""
        bad, self.bad = self.bad, torch.zeros_like(self.bad)
        return bad
