"""The guard's counting and deciding, apart from engines; with real ones see `test_poison.py`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common.training import finite
from common.training.dropped_steps import PlainStep
from common.training.guard import BadSteps, Guard, GuardConfig
from common.training.metrics import Terms
from common.training.modes import evaluating
from common.training.optim import Rates, constant_factor
from common.training.spikes import SpikeConfig, SpikeWatch

CPU = torch.device("cpu")
NAN = float("nan")


class Engine:
    """What the guard asks of a DeepSpeed engine."""

    def __init__(self) -> None:
        self.module = nn.Linear(2, 2)
        self.optimizer = SimpleNamespace(zero_grad=lambda: None, overflow=False, state={})
        self.global_steps, self.applied = 0, True

    def step(self, applied: bool) -> None:
        self.global_steps += 1
        self.applied = applied

    def was_step_applied(self) -> bool:
        return self.applied


def guarded(**config: Any) -> tuple[Guard, dict[str, Engine], list[str]]:
    engines = {"generator": Engine(), "discriminator": Engine()}
    guard = Guard(GuardConfig(**config), engines, Terms(CPU), CPU)
    said: list[str] = []
    guard.say = said.append  # type: ignore[method-assign]
    return guard, engines, said


def take(guard: Guard, engines: dict[str, Engine], step: int, good: bool = True, **named: Any) -> bool:
    guard.start_step(step)
    guard.see([f"picture {step}"])
    engines["generator"].step(good)
    guard.terms.add(step, loss=torch.tensor(1.0 if good else NAN))
    return guard.end_step(look=False, **named)


def test_so_many_bad_steps_in_a_row_end_the_run() -> None:
    guard, engines, said = guarded(max_in_a_row=3)
    for step, good in enumerate((True, False, False, True, False, False), 1):
        take(guard, engines, step, good)
        assert guard.healthy is good
    with pytest.raises(
        BadSteps, match=r"guard.max_in_a_row: 3 bad steps in a row.*step 7: dropped by generator"
    ):
        take(guard, engines, 7, False)
    assert guard.line() == {"skipped_steps": 5, "skipped_steps_discriminator": 0, "nonfinite_losses": 5}
    assert len(said) == 5
    assert "loss loss not finite on rank 0 (first at step 2); gradients of generator not finite" in said[0]
    assert "samples on rank 0: picture 2" in said[0]


def test_too_large_a_share_ends_the_run() -> None:
    guard, engines, _ = guarded(max_share=0.2, window=10)
    for step in range(1, 40):
        take(guard, engines, step, good=step % 5 != 0)  # 2 of 10 are allowed
    take(guard, engines, 40, good=False)
    with pytest.raises(BadSteps, match=r"guard.max_share: 3 of the last 10 steps were bad, more than 20%"):
        take(guard, engines, 41, good=False)


def test_an_engine_that_took_no_step_dropped_none() -> None:
    guard, engines, said = guarded()
    engines["discriminator"].applied = False  # as every engine before its first step
    take(guard, engines, 1)
    assert not said and guard.line()["skipped_steps_discriminator"] == 0


def test_it_goes_back_once() -> None:
    guard, engines, _ = guarded(max_in_a_row=2, rollback=True)
    assert [take(guard, engines, step, good=False) for step in (1, 2)] == [False, True]
    with guard.going_back():
        guard.load_state_dict(guarded()[0].state_dict())
    assert guard.line()["skipped_steps"] == 2 and guard.line()["rollbacks"] == 1
    assert not take(guard, engines, 1, good=False)
    with pytest.raises(BadSteps, match="2 bad steps in a row"):
        take(guard, engines, 2, good=False)


def test_a_resumed_run_counts_on() -> None:
    guard, engines, _ = guarded(max_in_a_row=3, spikes=SpikeConfig(window=4))
    for step in (1, 2):
        take(guard, engines, step, good=False)
    again, engines, _ = guarded(max_in_a_row=3, spikes=SpikeConfig(window=4))
    again.load_state_dict(guard.state_dict())
    assert again.line() == guard.line()
    with pytest.raises(BadSteps, match="3 bad steps in a row"):
        take(again, engines, 3, good=False)


@pytest.mark.parametrize("where", ["weight", "moment", "average"])
def test_nothing_bad_is_saved(where: str) -> None:
    engine, average = Engine(), SimpleNamespace(shadow={"weight": torch.zeros(2)})
    moments = {"exp_avg": torch.zeros(2), "step": torch.tensor(1)}
    engine.optimizer.state = {nn.Parameter(torch.zeros(2)): moments}
    guard = Guard(GuardConfig(), {"small": engine}, Terms(CPU), CPU, beside={"ema": average})
    guard.start_step(1)
    assert not guard.end_step(look=False, saving=True)
    bad = {
        "weight": engine.module.weight.data,
        "moment": moments["exp_avg"],
        "average": average.shadow["weight"],
    }
    bad[where].view(-1)[1] = NAN
    guard.start_step(2)
    name = {"weight": "small: weight", "moment": "small: optimizer's exp_avg 0", "average": "ema: weight"}[
        where
    ]
    with pytest.raises(BadSteps, match=f"step 2: not finite: {name} on rank 0"):
        guard.end_step(look=False, saving=True)


def test_what_is_not_finite_is_named() -> None:
    tensors = {
        "a": torch.tensor([1.0, 2.0]),
        "b": torch.tensor([1.0, NAN]),
        "c": torch.tensor([math.inf]).half(),
    }
    tensors |= {"count": torch.tensor([1]), "empty": torch.zeros(0), "large": torch.tensor([3e38])}
    assert finite.not_finite(tensors.items()) == ["b", "c"]


def test_terms_of_bad_steps_do_not_spoil_the_mean() -> None:
    terms = Terms(CPU)
    for step, value in enumerate((1.0, NAN, 3.0), 1):
        terms.add(step, l2=torch.tensor(value))
        assert bool(terms.end_step()) == (step == 2)
    terms.add(4, l2=torch.tensor(5.0), gan=torch.tensor(math.inf))  # a term that joins later
    assert terms.take_bad() == {"l2": (2, 1), "gan": (4, 1)} and terms.take_bad() == {}
    means = terms.take()
    assert means["l2"] == 3.0 and math.isnan(means["gan"]) and terms.take() == {}


def test_a_spike_is_vetoed_and_not_remembered() -> None:
    watch = SpikeWatch(SpikeConfig(deviations=5.0, window=8), CPU)

    def vetoed(value: float) -> bool:
        first = watch.veto(torch.tensor(value - 0.5), last=False)
        assert not first.isnan()
        return bool(watch.veto(torch.tensor(value + 0.5), last=True).isnan())

    assert not any(vetoed(value) for value in (9.0, 2.1, 1.9))  # before half the window nothing is a spike
    assert not any(vetoed(2.0 + 0.1 * (step % 3)) for step in range(8))
    assert vetoed(9.0) and not vetoed(2.2) and vetoed(9.0)
    again = SpikeWatch(SpikeConfig(deviations=5.0, window=8), CPU)
    again.load_state_dict(watch.state_dict())
    assert torch.equal(again.recent, watch.recent) and again.place == watch.place


def test_rates_follow_the_steps_done() -> None:
    optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5}])
    rates = Rates([(0.5, constant_factor(4))])
    found = []
    for done in (0, 2, 1, 9):
        rates.set(optimizer, done)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [0.0, 0.25, 0.125, 0.5]


def test_evaluating_gives_each_part_its_mode_back() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model[0].eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not any(part.training for part in model.modules())
        assert not any(part.training for part in model.modules())
        raise KeyError
    assert [part.training for part in model.modules()] == [True, False, True]


@pytest.mark.parametrize("bound", [0.0, 0.5])
def test_gradients_are_clipped_only_where_there_is_a_bound(bound: float) -> None:
    """0 is DeepSpeed's way to say that there is none."""
    mine, theirs = (nn.Parameter(torch.ones(3)) for _ in range(2))
    # A large eps, so that the step depends on how large the gradient is.
    optimizers = [torch.optim.AdamW([parameter], lr=1.0, eps=1.0, fused=True) for parameter in (mine, theirs)]
    PlainStep(optimizers[0], bound)
    for parameter in (mine, theirs):
        parameter.grad = torch.tensor([3.0, 0.0, 4.0])
    if bound:
        nn.utils.clip_grad_norm_([theirs], bound)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(mine, theirs)
    assert optimizers[0]._global_grad_norm == 5  # type: ignore[attr-defined]
