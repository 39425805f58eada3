"""An exact detector for the miniature world: which shapes, of which colour, where, and how certain.

What is notable here: nothing is learned. The background is a fitted plane; every pixel is explained as a mixture
of that plane and one palette colour; connected pixels of one colour are compared with rendered shapes of every
size and place; and what no object explains is counted, so that a smear or an unknown colour is refused rather
than named. On a clean picture the answer equals the ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scenes import BASE_SIZE, COLORS, OBJECT_SIZES, PALETTE, SHAPES, Scene, shape_mask
from scipy import ndimage

FOREGROUND = 34.0  # RGB distance from the background that counts as foreground: half of the least contrast
COLOR_TOLERANCE = 45.0  # RGB distance to a palette colour: just under half of what separates the two nearest
CORE = 0.5  # share of the object's colour in a pixel that makes it part of the object's core
SMALLEST_CORE = 12  # px; a smaller one is no object but may be unexplained. The least object has 41.
UNEXPLAINED = 10  # connected px outside all objects that make a picture something other than the scene
# Soft IoU with the best shape that gives a score of 0 and of 1: objects rebuilt at 26 dB reach 0.75 to 0.9.
WORST_MATCH, FULL_MATCH = 0.6, 0.75
CERTAIN = 0.3  # a scene is detected only if all scores are above: GenEval's threshold
CENTER_TOLERANCE = 1.5  # px at 32 px, to the true centre
RGB = np.asarray(list(PALETTE.values()), np.float32)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object: its class (`shape`), `color`, `box` (x0, y0, x1, y1) in px with exclusive far edges, a `score`
    in [0, 1], and its `mask` (S, S) bool."""

    shape: str
    color: str
    box: tuple[int, int, int, int]
    score: float
    mask: np.ndarray

    @property
    def center(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return ((x0 + x1) / 2, (y0 + y1) / 2)


def detect(image: Any) -> list[Detection]:
    """Objects in a picture, best first.

    `image`: an array or tensor, (S, S, 3) or (3, S, S), uint8 or float in [0, 1].
    """
    return _analyse(_as_pixels(image))[0]


def scene_detected(scene: Scene, image: Any) -> bool:
    """Whether the picture shows the scene: its (shape, colour) objects, each in its place, and nothing else."""
    found, unexplained = _analyse(_as_pixels(image))
    tolerance = CENTER_TOLERANCE * scene.size / BASE_SIZE
    if len(found) != len(scene.things) or unexplained or min(one.score for one in found) <= CERTAIN:
        return False
    for thing in scene.things:
        same = [
            one
            for one in found
            if (one.shape, one.color) == (thing.shape, thing.color)
            and np.hypot(*np.subtract(one.center, thing.center)) <= tolerance
        ]
        if len(same) != 1:
            return False
    return True


def detected_share(scenes: Sequence[Scene], pictures: Sequence[Any]) -> float:
    """Share of pictures that show their scene; pictures as for `detect`."""
    return float(np.mean([scene_detected(*pair) for pair in zip(scenes, pictures, strict=True)]))


def _as_pixels(image: Any) -> np.ndarray:
    """(S, S, 3) float32 in [0, 255]."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[0] == 3 != image.shape[2]:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"image: expected a square RGB picture, got shape {image.shape}")
    if image.dtype == np.uint8:
        return image.astype(np.float32)
    return np.clip(image, 0, 1).astype(np.float32) * 255


def _analyse(pixels: np.ndarray) -> tuple[list[Detection], int]:
    """The detections, best first, and how many px in connected groups of `UNEXPLAINED` or more they leave."""
    side = len(pixels)
    ground = fit_background(pixels)
    difference = pixels - ground
    foreground = np.einsum("yxc,yxc->yx", difference, difference) > FOREGROUND**2
    found = []
    unexplained = foreground.copy()
    cores = _cores(ground, difference, foreground)
    occupied = np.zeros((side, side), bool)
    for _, core in cores:
        occupied |= core
    for color, core in cores:
        match = _best_shape(_matte(ground, difference, color, occupied & ~core), core)
        if match is None:
            continue
        shape, (left, top, size), iou = match
        window = np.s_[top : top + size, left : left + size]
        name = _fitted_color(ground[window], difference[window], shape_mask(shape, size))
        score = min(1.0, (iou - WORST_MATCH) / (FULL_MATCH - WORST_MATCH))
        if name is None or score <= 0:
            continue
        mask = np.zeros((side, side), bool)
        mask[window] = shape_mask(shape, size) >= CORE
        # One px around the shape belongs to the object too: a blurred outline is no second object.
        y, x = max(0, top - 1), max(0, left - 1)
        around = unexplained[y : top + size + 1, x : left + size + 1]
        around &= ~_reach(shape, size)[y - top + 1 :, x - left + 1 :][: around.shape[0], : around.shape[1]]
        box = (left, top, left + size, top + size)
        found.append(Detection(shape=shape, color=name, box=box, score=score, mask=mask))
    areas = [area for _, area in _groups(unexplained)]
    return sorted(found, key=lambda one: -one.score), sum(area for area in areas if area >= UNEXPLAINED)


def _groups(mask: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Connected parts of a mask, (S, S) bool each, with their areas in px."""
    labelled, count = ndimage.label(mask)
    areas = np.bincount(labelled.ravel(), minlength=count + 1)
    return [(labelled == number, int(areas[number])) for number in range(1, count + 1)]


def _cores(
    ground: np.ndarray, difference: np.ndarray, foreground: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """(colour index, mask (S, S)) of each connected group of pixels mostly of one palette colour.

    A pixel is taken as background + share x (colour - background), by least squares, for the colour that leaves
    the least rest. So the rim of a red disc on grey is a little red, not brown.
    """
    back, away = ground[foreground], difference[foreground]
    along = away @ RGB.T - np.einsum("mc,mc->m", away, back)[:, None]
    length = (RGB**2).sum(1) - 2 * back @ RGB.T + np.einsum("mc,mc->m", back, back)[:, None]
    length = np.maximum(length, 1)  # in pictures of other origin the background may be a palette colour
    shares = np.clip(along / length, 0, 1.2)
    rest = np.einsum("mc,mc->m", away, away)[:, None] - 2 * shares * along + shares**2 * length
    color = rest.argmin(1)
    rows = np.arange(len(color))
    inside = (shares[rows, color] >= CORE) & (rest[rows, color] < COLOR_TOLERANCE**2)
    index = np.full(foreground.shape, -1)
    index[foreground] = np.where(inside, color, -1)
    present = np.flatnonzero(np.bincount(color[inside], minlength=len(COLORS)) >= SMALLEST_CORE)
    return [(int(c), mask) for c in present for mask, area in _groups(index == c) if area >= SMALLEST_CORE]


def _matte(ground: np.ndarray, difference: np.ndarray, color: int, others: np.ndarray) -> np.ndarray:
    """Share of a colour in each pixel, (S, S) in [0, 1]; 0 where `others` are."""
    toward = RGB[color] - ground
    length = np.maximum(np.einsum("yxc,yxc->yx", toward, toward), 1)
    share = np.einsum("yxc,yxc->yx", toward, difference) / length
    return np.where(others, 0, np.clip(share, 0, 1))


def _fitted_color(ground: np.ndarray, difference: np.ndarray, coverage: np.ndarray) -> str | None:
    """The palette colour that best explains a shape's pixels (size, size, 3); None if they are of none."""
    weight = coverage / (coverage**2).sum()
    fitted = ground.mean((0, 1)) + np.einsum("yx,yxc->c", weight, difference)
    away = ((RGB - fitted) ** 2).sum(1)
    return COLORS[int(away.argmin())] if away.min() <= COLOR_TOLERANCE**2 else None


def fit_background(pixels: np.ndarray) -> np.ndarray:
    """The plane per channel behind the objects, (S, S, 3): least squares over the pixels near the last estimate.

    It starts from the median of the border, where the world shows no object.
    """
    side = len(pixels)
    design = _plane(side)
    flat = pixels.reshape(-1, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.broadcast_to(np.median(border, 0), flat.shape)
    for reach in (FOREGROUND, FOREGROUND / 2):
        away = flat - ground
        near = np.einsum("mc,mc->m", away, away) < reach**2
        if near.sum() < side:  # too little to fit a plane to: keep what there is
            break
        rows = design[near]
        ground = design @ np.linalg.solve(rows.T @ rows, rows.T @ flat[near])
    return ground.reshape(pixels.shape)


@cache
def _plane(side: int) -> np.ndarray:
    ramp = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    across, down = np.meshgrid(ramp, ramp)
    return np.stack([np.ones(side * side, np.float32), across.ravel(), down.ravel()], 1)


@cache
def _reach(shape: str, size: int) -> np.ndarray:
    """The pixels that a shape touches and their neighbours: (size + 2, size + 2) bool."""
    return ndimage.binary_dilation(np.pad(shape_mask(shape, size) > 0, 1), np.ones((3, 3)))


@cache
def _masks(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every shape, softened: (shapes, size + 2, size + 2), and their sums."""
    masks = _soften(np.stack([shape_mask(shape, size) for shape in SHAPES]))
    return masks, masks.sum((1, 2))


def _soften(mask: np.ndarray) -> np.ndarray:
    """A mask (..., H, W) blurred by (1, 2, 1) / 4 both ways, a px larger on every side.

    Compared soft with soft, a blurred or frayed outline still fits best where its shape does.
    """
    wide = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(2, 2), (2, 2)])
    tall = (wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :]) / 4
    return (tall[..., :-2] + 2 * tall[..., 1:-1] + tall[..., 2:]) / 4


def _best_shape(matte: np.ndarray, core: np.ndarray) -> tuple[str, tuple[int, int, int], float] | None:
    """(shape, (left, top, size), soft IoU) of the rendered shape that best covers the matte; None if none can.

    `matte` (S, S) is the share of the object's colour in each pixel, counted near `core` only.
    """
    side = len(matte)
    rows, columns = np.flatnonzero(core.any(1)), np.flatnonzero(core.any(0))
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    scale = side / BASE_SIZE
    smallest, largest = round(OBJECT_SIZES[0] * scale) - 2, round(OBJECT_SIZES[1] * scale) + 2
    # Two px around the core, as far as the picture goes; sizes within a px of its extent, and every place.
    y0, y1 = max(0, rows[0] - 2), min(side, rows[-1] + 3)
    x0, x1 = max(0, columns[0] - 2), min(side, columns[-1] + 3)
    near = _soften(matte[y0:y1, x0:x1])
    total = near.sum()
    best: tuple[str, tuple[int, int, int], float] | None = None
    for size in range(max(smallest, extent - 1), min(largest, extent + 1, y1 - y0, x1 - x0) + 1):
        masks, areas = _masks(size)
        crops = sliding_window_view(near, masks.shape[1:])
        # Sum of the smaller value at each px: (rows, columns, shapes).
        shared = np.minimum(crops[:, :, None], masks).reshape(*crops.shape[:2], len(SHAPES), -1).sum(-1)
        iou = shared / (total + areas - shared)
        row, column, shape = np.unravel_index(int(iou.argmax()), iou.shape)
        if best is None or iou[row, column, shape] > best[2]:
            place = (int(x0 + column), int(y0 + row), size)
            best = (SHAPES[int(shape)], place, float(iou[row, column, shape]))
    return best
