"""The contract of a detector: a picture in, objects out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """One object that a detector found.

    Args:
        name: its class.
        score: in [0, 1]. Leave a detector's float32 as it is: 0.3 in float32 is not over the threshold of 0.3, but
            converted to a Python float it would be.
        box: (x0, y0, x1, y1) in pixels, the far edges exclusive.
        color: its name, or a function that finds it, called only where a rule asks.
        mask: (H, W) bool, for such a function and for drawings; GenEval's rules do not read it.
    """

    name: str
    score: float
    box: Box
    color: str | Callable[[], str] | None = None
    mask: np.ndarray | None = field(default=None, repr=False)


class Detector(Protocol):
    """A backend: finds objects in a picture, the same ones each time."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Whatever its detections follow from, as JSON: `name`, hashes of weights or code, settings."""
        ...

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def colors(self) -> Sequence[str]: ...

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Everything found in an RGB picture, whatever its score; scores are float32."""
        ...
