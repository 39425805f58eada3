"""Dense scenes: ever more and smaller shapes on one canvas, and how many of them can still be told.

A chart is a grid of cells with a shape of the miniature world in each (`detectors/world_shapes.py`), a little off its
middle. A shape is told if, of all shapes in all colours, it is the one that explains its cell best.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from common.metrics.reconstruction import image_scores
from evals.details.charts import Chart, Seen
from evals.detectors.world import MIN_SCORE, detect
from evals.detectors.world_shapes import BASE_SIZE, COLORS, PALETTE, SHAPES, shape_mask

SMALLEST_CELL = 6
"""px: in a smaller cell no shape could be told even in the original."""
PER_SIDE = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
FILLED = 0.75
"""Of a cell's side, at most, by its shape."""
LARGEST_SHAPE = 13
"""px at 32 px, as in the world's scenes; other sides scale it."""
GROUND = (95, 165)
"""The range of the gray ground, as in the world's scenes."""
LARGEST_WORLD = 64
"""px: the side of a picture up to which the world's exact detector looks at it too."""
_PALETTE = np.array(list(PALETTE.values()), np.float64)


class DenseScenes:
    """Shapes on a gray ground, as many across as down."""

    name, axis = "scenes", "shapes in the picture"
    harder: Literal["larger"] = "larger"

    def __init__(self, side: int, seed: int, per_level: int) -> None:
        self.side, self.seed, self.per_level = side, seed, per_level
        self.levels = [float(count**2) for count in PER_SIDE if side // count >= SMALLEST_CELL]
        self.measures = {
            "told": "shapes told by template",
            "psnr": "PSNR of dense scenes, dB",
            "ssim": "SSIM of dense scenes",
        }
        if BASE_SIZE <= side <= LARGEST_WORLD:
            self.measures["detected"] = "shapes found by the exact detector"
        self.identity: dict[str, Any] = {
            "levels": self.levels,
            "measures": list(self.measures),
            "seed": seed,
        }

    def __len__(self) -> int:
        return len(self.levels) * self.per_level

    def chart(self, index: int) -> Chart:
        """See `DetailTest.chart`."""
        rng = np.random.default_rng([self.seed, 4, index])
        level = self.levels[index % len(self.levels)]
        per_side = round(level**0.5)
        ground = float(rng.uniform(*GROUND))
        canvas = np.full((self.side, self.side, 3), ground)
        cell = self.side / per_side
        size = round(min(cell * FILLED, LARGEST_SHAPE * self.side / BASE_SIZE))
        things = []
        for row in range(per_side):
            for column in range(per_side):
                # In whole px, with a pixel of ground on each side.
                first = np.ceil(np.array([row, column]) * cell).astype(int)
                room = int(cell) - size
                top, left = first + (rng.integers(1, room, size=2) if room > 1 else 0)
                shape, color = str(rng.choice(SHAPES)), str(rng.choice(COLORS))
                coverage = shape_mask(shape, size)[..., None]
                place = canvas[top : top + size, left : left + size]
                place += coverage * (np.array(PALETTE[color]) - place)
                things.append((shape, color, int(top), int(left)))
        pixels = np.rint(canvas).astype(np.uint8)
        return Chart(pixels, level, {"things": things, "size": size, "ground": ground})

    def measure(self, chart: Chart, picture: np.ndarray) -> list[Seen]:
        """See `DetailTest.measure`."""
        things, size, ground = (chart.facts[name] for name in ("things", "size", "ground"))
        told = sum(
            tell(picture[top : top + size, left : left + size], ground) == (shape, color)
            for shape, color, top, left in things
        )
        original, rebuilt = (
            torch.from_numpy(part).permute(2, 0, 1)[None] for part in (chart.pixels, picture)
        )
        scores = {"told": told / len(things)}
        scores |= {name: float(values[0]) for name, values in image_scores(original, rebuilt).items()}
        if "detected" in self.measures:
            scores["detected"] = _detected(picture, things, size)
        return [Seen(chart.level, scores, {"size": size})]


def tell(piece: np.ndarray, ground: float) -> tuple[str, str]:
    """The shape and colour, laid on a gray ground, from which a piece (s, s, 3) differs least."""
    contrast = piece.reshape(-1, 3).astype(np.float64) - ground
    masks = np.stack([shape_mask(shape, len(piece)).ravel() for shape in SHAPES]).astype(np.float64)
    colors = _PALETTE - ground
    # |piece - mask color|^2, less |piece|^2, which is the same for all.
    products = np.einsum("sp,pc,kc->sk", masks, contrast, colors)
    errors = np.outer((masks**2).sum(1), (colors**2).sum(1)) - 2 * products
    shape, color = np.unravel_index(errors.argmin(), errors.shape)
    return SHAPES[shape], COLORS[color]


def _detected(picture: np.ndarray, things: list[tuple[str, str, int, int]], size: int) -> float:
    """Share of the shapes of which the exact detector finds one of this shape and colour with its centre in its box."""
    found = [one for one in detect(picture) if one.score > MIN_SCORE]
    hits = 0
    for shape, color, top, left in things:
        for one in found:
            x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
            if (one.name, one.color) == (shape, color) and 0 <= x - left <= size and 0 <= y - top <= size:
                hits += 1
                break
    return hits / len(things)
