"""How far a score might be off because another handful of prompts had been asked: bootstrap intervals.

What is notable here: prompts are drawn again, not pictures. The pictures of one prompt stand or fall together, and
drawing them one by one would make the intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Interval = tuple[float, float]
RESAMPLES = 10_000


def intervals(
    groups: Mapping[str, Sequence[float]], share: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of each group's mean, and of `overall`, the mean of the groups' means.

    Args:
        groups: scores of the prompts of each group, at least one each.
        share: how much of the resampled means lies inside, in (0, 1).
        seed: equal calls give equal intervals.
    """
    rng = np.random.default_rng(seed)
    means = {}
    for name, scores in groups.items():
        values = np.asarray(scores, np.float64)
        drawn = rng.integers(len(values), size=(resamples, len(values)))
        means[name] = values[drawn].mean(1)
    means = {"overall": np.mean(list(means.values()), axis=0), **means}
    tail = (1 - share) / 2
    found = {}
    for name, resampled in means.items():
        low, high = np.quantile(resampled, [tail, 1 - tail])
        found[name] = (float(low), float(high))
    return found
