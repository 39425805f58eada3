"""Successive halving over settings of the sampler: all on few prompts, the best of them on more.

What is notable here: all settings draw with the same random numbers for the same prompts, so they are compared
prompt by prompt, and a picture that was scored once is not drawn again. The settings that stand now take part to the
end: what is found is only better than them if the difference is more than its own spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from generation.sampling import Sampling

ROUNDS = (0.25, 0.5, 1.0)  # shares of the prompts
KEPT = 1 / 3  # of the settings, from round to round

Measure = Callable[[Sampling, Sequence[int]], Sequence[float]]
"""Settings and numbers of prompts -> a score for each, the mean over its pictures."""


@dataclass
class Trial:
    """One combination of settings. `scores`: by the number of a prompt."""

    sampling: Sampling
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


def rounds(prompts: int) -> list[list[int]]:
    """The prompts of each round, at even distances; those of a round are among those of the next."""
    # In an order whose every beginning is spread over the whole list.
    order = sorted(range(prompts), key=lambda number: (number * (math.sqrt(5) - 1) / 2) % 1)
    sizes = sorted({max(1, round(share * prompts)) for share in ROUNDS})
    return [sorted(order[:size]) for size in sizes]


def budget(candidates: int, prompts: int, per_prompt: int) -> int:
    """Pictures that a search draws at most."""
    drawn = before = 0
    for numbers in rounds(prompts):
        drawn += (candidates + 1) * (len(numbers) - before) * per_prompt
        before, candidates = len(numbers), max(1, math.ceil(candidates * KEPT))
    return drawn


def search(current: Sampling, candidates: Sequence[Sampling], prompts: int, measure: Measure) -> list[Trial]:
    """Every trial, those that went furthest and scored best first. The first to have gone through is the best one.

    Args:
        current: takes part in every round.
        candidates: different from each other and from it.
    """
    now, running = Trial(current), [Trial(one) for one in candidates]
    done = [now, *running]
    for place, numbers in enumerate(rounds(prompts)):
        if place:
            # Ties: the earlier candidate.
            ranked = sorted(running, key=lambda trial: -trial.mean)
            running = ranked[: max(1, math.ceil(len(running) * KEPT))]
        for trial in (now, *running):
            waiting = [number for number in numbers if number not in trial.scores]
            trial.scores |= dict(zip(waiting, measure(trial.sampling, waiting), strict=True))
    return sorted(done, key=lambda trial: (-len(trial.scores), -trial.mean))


def difference(better: Trial, now: Trial) -> tuple[float, float]:
    """Mean difference over the prompts that both were scored on, and its standard error; 0, 0 with itself."""
    both = sorted(better.scores.keys() & now.scores.keys())
    apart = [better.scores[number] - now.scores[number] for number in both]
    mean = sum(apart) / len(apart)
    spread = sum((one - mean) ** 2 for one in apart) / max(1, len(apart) - 1)
    return mean, math.sqrt(spread / len(apart))
