"""Thin lines and gratings: how much of their contrast is kept as they become thinner, and finer."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from evals.details.charts import CONTRASTS, Chart, Seen, kept, painted

WIDTHS = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)
"""px; those up to an eighth of the side."""
PERIODS = (2.5, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)
"""px from one crest to the next, those up to half of the side; at 2 px, the finest there is, all hangs on the phase."""


class _Stripes:
    """What lines and gratings share: a direction, a contrast, and one measure."""

    harder: Literal["smaller"] = "smaller"
    stream: int  # of the random numbers

    def __init__(self, side: int, seed: int, per_level: int) -> None:
        self.side, self.seed, self.per_level = side, seed, per_level
        self.levels = self.levels_at(side)
        self.identity: dict[str, Any] = {"levels": self.levels, "contrasts": list(CONTRASTS), "seed": seed}

    def levels_at(self, side: int) -> list[float]:
        raise NotImplementedError

    def coverage(self, across: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
        """Ink in [0, 1] by the distance from the middle along the direction, (S, S) px."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.levels) * self.per_level

    def chart(self, index: int) -> Chart:
        """See `DetailTest.chart`."""
        rng = np.random.default_rng([self.seed, self.stream, index])
        level = self.levels[index % len(self.levels)]
        angle, contrast = float(rng.uniform(0, np.pi)), float(rng.choice(CONTRASTS))
        ramp = np.arange(self.side) + 0.5 - self.side / 2
        across = ramp[None, :] * np.cos(angle) + ramp[:, None] * np.sin(angle)
        coverage = self.coverage(across, level, rng)
        pixels = painted(coverage, contrast, float(rng.choice((-1.0, 1.0))))
        return Chart(pixels, level, {"angle": round(np.degrees(angle), 1), "contrast": contrast})

    def measure(self, chart: Chart, picture: np.ndarray) -> list[Seen]:
        """See `DetailTest.measure`."""
        original, seen = chart.pixels.mean(-1), picture.mean(-1)
        return [Seen(chart.level, {"kept": kept(original, seen)}, chart.facts)]


class ThinLines(_Stripes):
    """One straight line through each chart, in any direction, antialiased: below 1 px it is as faint as it is thin."""

    name, axis = "lines", "width of a line, px"
    measures = {"kept": "contrast kept of a line"}
    stream = 2

    def levels_at(self, side: int) -> list[float]:
        """Its widths."""
        return [float(width) for width in WIDTHS if width <= side / 8]

    def coverage(self, across: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
        """See `_Stripes.coverage`."""
        middle = rng.uniform(-0.25, 0.25) * self.side
        near, far = np.abs(across - middle) - 0.5, np.abs(across - middle) + 0.5  # of a pixel's extent
        return np.clip(np.minimum(far, level / 2) - np.maximum(near, -level / 2), 0, 1)


class Gratings(_Stripes):
    """Sine waves over the whole chart, in any direction and phase: the modulation transfer."""

    name, axis = "gratings", "period of a grating, px"
    measures = {"kept": "modulation transfer"}
    stream = 3

    def levels_at(self, side: int) -> list[float]:
        """Its periods."""
        return [float(period) for period in PERIODS if period <= side / 2]

    def coverage(self, across: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
        """See `_Stripes.coverage`."""
        return 0.5 + 0.5 * np.sin(2 * np.pi * across / level + rng.uniform(0, 2 * np.pi))
