"""What the demo's miniature world consists of: four shapes in ten colours, and the mask of each shape at any size."""

from __future__ import annotations

from functools import cache

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")

# GenEval's ten colours, RGB in [0, 255], spread so that the two nearest (orange and yellow) are 90 apart.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 40),
    "green": (30, 150, 50),
    "blue": (35, 80, 220),
    "purple": (130, 40, 180),
    "pink": (255, 130, 190),
    "brown": (130, 70, 20),
    "black": (10, 10, 10),
    "white": (252, 252, 252),
}
COLORS = tuple(PALETTE)
CONTRAST = 70.0  # smallest RGB distance between a background pixel and a palette colour

BASE_SIZE = 32  # px; the side for which the two lengths below are given, other sides scale them
OBJECT_SIZES = (9, 13)
SUPERSAMPLING = 8


@cache
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Antialiased coverage of a shape in its box: (size, size) float32 in [0, 1]. Cached; do not write to it."""
    fine = (np.arange(size * SUPERSAMPLING) + 0.5) / (size * SUPERSAMPLING)  # in [0, 1]
    x, y = fine[None, :], fine[:, None]
    if shape == "circle":
        inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25
    elif shape == "square":
        inside = np.ones((fine.size, fine.size), bool)
    elif shape == "triangle":
        inside = np.abs(x - 0.5) <= y / 2
    elif shape == "cross":
        inside = (np.abs(x - 0.5) <= 1 / 6) | (np.abs(y - 0.5) <= 1 / 6)
    else:
        raise ValueError(f"shape: expected one of {', '.join(SHAPES)}, got {shape!r}")
    mask = inside.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean((1, 3)).astype(np.float32)
    mask.setflags(write=False)
    return mask
