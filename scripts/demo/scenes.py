"""Procedural scenes with exact ground truth: 1 to 4 coloured shapes on a softly shaded background.

What is notable here: scene i of (seed, split) is a pure function, so a world is never stored to be reproduced;
objects sit on whole pixels and their outlines are antialiased, so a box is exact and a shape stays recognisable
at 9 px; and the palette and the backgrounds are kept apart (`CONTRAST`), so every object can be told from what
is behind it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evals.detectors.world_shapes import BASE_SIZE, COLORS, OBJECT_SIZES, PALETTE, SHAPES, shape_mask

SPLITS = {"train": 0, "val": 1}
KINDS = ("single", "same", "pair", "mixed")
# single: one object; same: 2 to 4 of one shape; pair: two different shapes; mixed: 3 or 4 of at least two shapes.
KIND_WEIGHTS = (0.2, 0.2, 0.45, 0.15)

GAP = 3  # px of background between two boxes
MARGIN = 1  # px of background around the picture: its border shows no object


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: its outline touches all four sides of the square box [left, left+size) x [top, top+size)."""

    shape: str
    color: str
    left: int
    top: int
    size: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) in px, the far edges exclusive."""
        return (self.left, self.top, self.left + self.size, self.top + self.size)

    @property
    def center(self) -> tuple[float, float]:
        return (self.left + self.size / 2, self.top + self.size / 2)


@dataclass(frozen=True, kw_only=True)
class Background:
    """A plane: `color` (RGB in [0, 255]) in the middle, changing by `slope` (x, y) from one edge to the other."""

    color: tuple[float, float, float]
    slope: tuple[float, float]

    def draw(self, size: int) -> np.ndarray:
        """(size, size, 3) float32 in [0, 255]."""
        ramp = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        shade = ramp[None, :] * self.slope[0] + ramp[:, None] * self.slope[1]
        return np.asarray(self.color, np.float32) + shade[..., None]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's ground truth; `size` is its side in px."""

    size: int
    kind: str
    background: Background
    things: tuple[Thing, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ground truth as JSON: each object also with its box."""
        record = asdict(self)
        for written, thing in zip(record["things"], self.things, strict=True):
            written["box"] = list(thing.box)
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Scene:
        ground = record["background"]
        return cls(
            size=record["size"],
            kind=record["kind"],
            background=Background(color=tuple(ground["color"]), slope=tuple(ground["slope"])),
            things=tuple(
                Thing(**{k: v for k, v in thing.items() if k != "box"}) for thing in record["things"]
            ),
        )


def render(scene: Scene) -> np.ndarray:
    """The picture: (size, size, 3) uint8 RGB."""
    canvas = scene.background.draw(scene.size)
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        coverage = shape_mask(thing.shape, thing.size)[..., None]
        canvas[y0:y1, x0:x1] += coverage * (
            np.asarray(PALETTE[thing.color], np.float32) - canvas[y0:y1, x0:x1]
        )
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def make_scene(index: int, *, seed: int, split: str = "train", size: int = BASE_SIZE) -> Scene:
    """Scene `index` of (seed, split): a pure function of its arguments. `size` is in px, 32 to 64."""
    if not 32 <= size <= 64:
        raise ValueError(f"size: expected 32 to 64 px, got {size}")
    rng = np.random.default_rng([seed, SPLITS[split], index])
    kind = KINDS[int(np.searchsorted(np.cumsum(KIND_WEIGHTS), rng.random(), side="right"))]
    shapes = _shapes(kind, rng)
    # Objects of one shape share a colour half of the time; otherwise every object draws its own.
    if kind == "same" and rng.random() < 0.5:
        colors = [str(rng.choice(COLORS))] * len(shapes)
    else:
        colors = [str(color) for color in rng.choice(COLORS, len(shapes), replace=kind == "mixed")]
    places = _places(len(shapes), size, rng)
    things = tuple(
        Thing(shape=shape, color=color, left=left, top=top, size=side)
        for shape, color, (left, top, side) in zip(shapes, colors, places, strict=True)
    )
    return Scene(size=size, kind=kind, background=_background(rng), things=things)


def _shapes(kind: str, rng: np.random.Generator) -> list[str]:
    if kind == "single":
        return [str(rng.choice(SHAPES))]
    if kind == "same":
        return [str(rng.choice(SHAPES))] * int(rng.integers(2, 5))
    if kind == "pair":
        return [str(shape) for shape in rng.choice(SHAPES, 2, replace=False)]
    while True:
        shapes = [str(shape) for shape in rng.choice(SHAPES, int(rng.integers(3, 5)))]
        if len(set(shapes)) > 1:
            return shapes


def _places(count: int, size: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(left, top, side) of `count` boxes, uniform among those that keep `GAP` and `MARGIN`.

    Sides are drawn before positions, and again, with the largest possible side one px smaller, when 128
    positions did not fit.
    """
    scale = size / BASE_SIZE
    smallest, largest = (round(side * scale) for side in OBJECT_SIZES)
    while True:
        sides = rng.integers(smallest, largest + 1, count)
        corners = np.floor(
            rng.random((128, count, 2)) * (size - 2 * MARGIN - sides + 1)[None, :, None]
        ).astype(int)
        corners += MARGIN
        # Two boxes are apart when, along x or y, one starts GAP px after the other ends.
        after = corners[:, :, None] >= (corners + sides[None, :, None])[:, None, :] + GAP  # (128, n, n, xy)
        one_way = np.asarray(after.any(-1))
        fits = (one_way | one_way.swapaxes(1, 2) | np.eye(count, dtype=bool)).all((1, 2))
        if fits.any():
            chosen = corners[int(fits.argmax())]
            return [(int(x), int(y), int(side)) for (x, y), side in zip(chosen, sides, strict=True)]
        largest = max(smallest, largest - 1)


def _background(rng: np.random.Generator) -> Background:
    """Grey from dark to light, gently tinted; a third of the backgrounds plain, the others shaded."""
    grey = rng.uniform(82, 178)
    tint = rng.uniform(-7, 7, 3)
    slope = rng.uniform(-14, 14, 2) if rng.random() < 2 / 3 else np.zeros(2)
    red, green, blue = (round(float(value), 1) for value in grey + tint)
    return Background(color=(red, green, blue), slope=(round(float(slope[0]), 1), round(float(slope[1]), 1)))
