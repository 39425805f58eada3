"""A few steps of a small engine under the guard, one of them poisoned: what is said, counted, and left of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import dist
from common.training.engine import BatchConfig, EngineConfig, deepspeed_config, set_rates, start_engine
from common.training.guard import BadSteps, Guard, GuardConfig
from common.training.metrics import Terms
from common.training.optim import MuonConfig, parameter_groups, with_muon

BAD_STEP = 3


@dataclass(frozen=True)
class Poison:
    """What is not finite, and where.

    Args:
        what: `loss`, `gradient` or `weight`.
        rank: on which rank alone; None on all.
    """

    what: str
    value: float = float("nan")
    rank: int | None = 1
    stage: int = 1
    precision: Any = "fp32"
    offload: Any = "none"
    muon: bool = False


def poisoned_steps(poison: dict[str, Any], steps: int = 5) -> dict[str, Any]:
    """Step `BAD_STEP` meets the poison.

    Returns:
        applied: whether the weights moved, step by step; said: lines; counts: the guard's, for the metrics; finite:
        whether all weights are at the end; error: what ended the steps, if something did; healthy: what the guard knew
        at each.
    """
    it = Poison(**poison)
    device = dist.start()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    groups, clip = parameter_groups("small", [model], 1e-2, 0.01), 1.0 if not it.muon else None
    if it.muon:
        groups = with_muon(groups, MuonConfig(lr=0.02), model[2].weight)
    batch = BatchConfig(global_size=4 * dist.world(), micro_size=2)
    config = EngineConfig(zero_stage=it.stage, precision=it.precision, offload=it.offload)  # type: ignore[arg-type]
    settings = deepspeed_config(config, batch, dist.world(), clip)
    engine = start_engine(model, groups, lambda group: lambda step: 1.0, (0.9, 0.999), 1e-8, settings)
    terms = Terms(device)
    guard = Guard(GuardConfig(), {"small": engine}, terms, device)
    said: list[str] = []
    guard.say = said.append  # type: ignore[method-assign]
    here = it.rank in (None, dist.rank())
    generator = torch.Generator().manual_seed(dist.rank())
    applied, healthy, error = [], [], None
    for step in range(1, steps + 1):
        before = held(model)
        set_rates(engine, step - 1)
        guard.start_step(step)
        if step == BAD_STEP and here and it.what == "weight":
            # Under ZeRO-3 weights are what the optimizer's own float32 copy makes them at each step.
            flat = engine.optimizer.fp32_partitioned_groups_flat if it.stage == 3 else pieces(model)
            flat[0].data.view(-1)[0] = it.value
        for turn in range(2):
            guard.see([f"sample {step}.{turn}"])
            pixels = torch.randn(2, 8, generator=generator).to(next(model.parameters()).dtype)
            output = engine(pixels)
            loss = output.float().square().mean()
            if step == BAD_STEP and here and not turn:
                if it.what == "loss":
                    loss = loss * it.value
                if it.what == "gradient":
                    output.register_hook(lambda gradient: gradient * it.value)
            engine.backward(loss)
            engine.step()
            terms.add(step, loss=loss)
        try:
            guard.end_step(look=step == steps, saving=step == steps)
        except BadSteps as problem:
            error = str(problem)
            break
        healthy.append(guard.healthy)
        applied.append(any(not torch.equal(*pair) for pair in zip(before, held(model), strict=True)))
    return {
        "poison": asdict(it),
        "applied": applied,
        "said": said,
        "counts": guard.line(),
        "healthy": healthy,
        "finite": all(bool(torch.isfinite(piece).all()) for piece in pieces(model)),
        "error": error,
        "grad_norm": float(engine.get_global_grad_norm()),
    }


def several(poisons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In one call, since it is one for two processes."""
    return [poisoned_steps(poison) for poison in poisons]


def pieces(model: nn.Module) -> list[Tensor]:
    """What this rank holds of the parameters."""
    return [getattr(p, "ds_tensor", p).detach() for p in model.parameters()]


def held(model: nn.Module) -> list[Tensor]:
    return [piece.clone() for piece in pieces(model)]
