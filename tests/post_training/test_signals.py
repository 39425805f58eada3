"""What a line says aloud, and when the held-out judge ends a run."""

from __future__ import annotations

import pytest
import torch

from post_training.held_out import Trend
from post_training.signals import PartWatch, line_warnings

LINE = {"equal_groups": 0.5, "grad_norm": 0.1, "sampler_gap": 0.01}


def test_a_part_that_never_differs_is_said() -> None:
    watch = PartWatch()
    for step in (1, 2):
        scores = torch.full((2, 3), 0.25)
        watch.see(step, {"flat": scores, "zero": torch.zeros(2, 3), "good": torch.rand(2, 3)})
    flat, zero = watch.warnings(2)
    assert "reward flat: every picture of steps 1 to 2 got 0.25" in flat
    assert "reward zero: every picture of steps 1 to 2 got 0, always" in zero
    watch.see(3, {"flat": torch.tensor([[0.25, 0.5]]), "zero": torch.zeros(1, 2), "good": torch.rand(1, 2)})
    (again,) = watch.warnings(3)
    assert "zero: every picture of step 3 got 0" in again


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("equal_groups", 1.0, "no group has a better and a worse picture"),
        ("grad_norm", 0.0, "grad_norm 0"),
        ("sampler_gap", 0.5, "sampler_gap 0.5"),
    ],
)
def test_figures_that_mean_something(key: str, value: float, said: str) -> None:
    assert line_warnings(LINE) == []
    (told,) = line_warnings({**LINE, key: value})
    assert told.startswith("warning: ") and said in told


def course(trend: Trend, pairs: list[tuple[float, float]]) -> list[int]:
    fallen = []
    for reward, judge in pairs:
        trend.learn(reward - 0.1)
        trend.learn(reward + 0.1)
        trend.judge({"judge": judge})
        fallen.append(trend.fallen)
    return fallen


def test_reward_up_and_judge_down_in_a_row_ends_a_run() -> None:
    trend = Trend(2)
    trend.judge({"judge": 0.9})  # before training: there is no reward yet
    assert course(trend, [(0.1, 0.5), (0.2, 0.6), (0.3, 0.5)]) == [0, 0, 1] and not trend.stopped
    assert course(trend, [(0.2, 0.4)]) == [0]  # the reward fell, too
    assert course(trend, [(0.3, 0.3), (0.4, 0.2)]) == [1, 2] and trend.stopped
    assert "2 evaluations in a row" in trend.told()
    assert not Trend(None).stopped


def test_a_trend_goes_on_where_it_was() -> None:
    pairs = [(0.1, 0.5), (0.3, 0.4), (0.4, 0.3), (0.5, 0.2)]
    whole = Trend(9)
    expected = course(whole, pairs)
    half = Trend(9)
    found = course(half, pairs[:2])
    half.learn(0.6)
    later = Trend(9)
    later.load_state_dict(half.state_dict())
    later.learn(0.2)  # 0.4 with what was learned before: it rose
    later.judge({"judge": 0.3})
    assert [*found, later.fallen] == expected[:3] and later.state_dict() != whole.state_dict()
