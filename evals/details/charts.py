"""The contract between what is measured and how: tests make charts, and measure a chart in a picture of it.

A chart is a picture made to be measured, as a resolution chart is, or a photograph. A test says how hard it is by a
level (a height, a width, a number) and what can still be seen of it, first in the chart itself, which is the ceiling,
then in each tokenizer's reconstruction of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

CONTRASTS = (1.0, 0.5, 0.25)
"""Shares of the whole range of 8 bits between ground and ink, both gray and as far from mid-gray."""


@dataclass(frozen=True)
class Chart:
    """A picture to be reconstructed."""

    pixels: np.ndarray
    """(S, S, 3) uint8."""
    level: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What only its test understands."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one thing in a picture: scores by the name of a measure; all have the same names in a test."""

    level: float
    scores: Mapping[str, float]
    said: Mapping[str, Any] = field(default_factory=dict)
    """What else a reader of the rows wants to know: plain values."""


class DetailTest(Protocol):
    """One kind of detail."""

    @property
    def name(self) -> str:
        """What scores and files are called by."""

    @property
    def axis(self) -> str:
        """What a level is, with its unit."""

    @property
    def harder(self) -> Literal["smaller", "larger"]:
        """Which levels are the harder ones."""

    @property
    def measures(self) -> Mapping[str, str]:
        """Name -> what it is, for the figure; the first one says which reconstructions are the worst."""

    @property
    def levels(self) -> Sequence[float] | None:
        """Those of its charts; None where they are as they come, and are put into quantiles."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain values from which its charts and measures follow."""

    def __len__(self) -> int:
        """Charts."""

    def chart(self, index: int) -> Chart:
        """Chart `index`: a pure function of it, of the identity, and of files that are read."""

    def measure(self, chart: Chart, picture: np.ndarray) -> list[Seen]:
        """What can be seen of the chart in `picture`, (S, S, 3) uint8: a reconstruction, or the chart's own pixels."""


def grays(contrast: float, sign: float) -> tuple[float, float]:
    """Ground and ink in [0, 255], `contrast` apart; the ink is the lighter one where `sign` is 1, and not where -1."""
    half = 127.5 * contrast * sign
    return 127.5 - half, 127.5 + half


def painted(coverage: np.ndarray, contrast: float, sign: float) -> np.ndarray:
    """Ink on a ground by its coverage (S, S) in [0, 1] -> (S, S, 3) uint8."""
    ground, ink = grays(contrast, sign)
    gray = np.rint(ground + coverage * (ink - ground)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def kept(original: np.ndarray, picture: np.ndarray) -> float:
    """How much of the original's contrast a picture has, in the same places: 1 all, 0 none, below 0 reversed.

    The slope of the least-squares line through (original, picture), both (...) numbers: what is of other forms,
    such as noise, does not count. For a grating, this is its modulation transfer.
    """
    deviation = original.astype(np.float64) - original.mean()
    return float((deviation * (picture.astype(np.float64) - picture.mean())).sum() / (deviation**2).sum())
