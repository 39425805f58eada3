"""The exact detector of the miniature world: shape, colour, box and score of every object in a picture.

What is notable here: nothing is learned. The background is a plane, fitted robustly; what differs from it is split
into blobs; and each blob is compared with every shape of `world_shapes.shape_mask` at every size and place near it. So
what the scenes draw is found exactly. Mild blur, noise and colour casts are forgiven; a shape or a colour between
two others is not: the score falls to 0 half-way.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from evals.detectors import world_shapes
from evals.detectors.detection import Detection
from evals.detectors.world_shapes import (
    BASE_SIZE,
    COLORS,
    CONTRAST,
    OBJECT_SIZES,
    PALETTE,
    SHAPES,
    shape_mask,
)

MIN_SCORE = 0.3  # an object scores more, as in GenEval, which asks for 0.9 where it counts
# Overlap times clarity that gives a score of 0 and of 1; what is drawn exactly has 0.95 or more.
CLEAR = (0.7, 0.85)
# px at 32 px: a smaller blob is a speck, a larger one scores 0.
SIDES = (0.5 * OBJECT_SIZES[0], 1.5 * OBJECT_SIZES[1])

REACH = 3  # px by which a shape's box may differ from its blob's: the tip of a triangle is faint
SOFTNESS = (0.0, 0.8)  # px, standard deviations: outlines as sharp as they were drawn, or as soft as this
NEAR_GROUND = (12.0, CONTRAST / 2)  # RGB distance up to which a pixel may be background: least, most
_PALETTE = np.array(list(PALETTE.values()), np.float32)


class WorldDetector:
    """`detect` as a backend for GenEval's rules, see `detection.Detector`."""

    classes, colors = SHAPES, COLORS

    def __init__(self) -> None:
        code = b"".join(Path(str(path)).read_bytes() for path in (__file__, world_shapes.__file__))
        self.identity: dict[str, Any] = {"name": "world", "code_sha256": hashlib.sha256(code).hexdigest()}

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Everything of an object's size in a square RGB picture; ValueError for another form."""
        found = detect(np.asarray(picture))
        return [replace(one, score=np.float32(one.score)) for one in found]  # type: ignore[arg-type]


def detect(image: Any) -> list[Detection]:
    """Everything of an object's size or more in a square picture, most certain first, whatever its score.

    `image`: array or tensor, (3, S, S) or (S, S, 3), uint8 or float in [0, 1] (clamped). ValueError otherwise.
    The score grows with the overlap with the best shape (an intersection over union), times how clearly it is
    this shape and no other, times the same for the colour. It is 1 for what `scenes.render` draws, and next to 0
    for what is no object of the world.
    """
    pixels = _smooth(_as_pixels(image))
    side = len(pixels)
    ground, roughness = _ground(pixels)
    contrast = pixels - ground
    blobs = _blobs(pixels, contrast)
    grown = np.where(blobs > 0, blobs, ndimage.maximum_filter(blobs, 3))
    found = []
    for number, place in enumerate(ndimage.find_objects(blobs), 1):
        if max(axis.stop - axis.start for axis in place) * BASE_SIZE / side >= SIDES[0]:
            alone = np.where(((grown == number) | (grown == 0))[..., None], contrast, 0)
            found.append(_fit(alone, ground, place, roughness))
    return sorted(found, key=lambda one: -one.score)


def _as_pixels(image: Any) -> np.ndarray:
    """(S, S, 3) float32 in [0, 255]."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.shape[0] != array.shape[1]:
        raise ValueError(f"image: expected (3, S, S) or (S, S, 3), got {np.shape(image)}")
    if array.dtype == np.uint8:
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"image: expected uint8 or float, got {array.dtype}")
    return np.clip(array.astype(np.float32), 0, 1) * 255


def _smooth(picture: np.ndarray) -> np.ndarray:
    """Weights 1 2 1 along both axes of (H, W, ...): noise falls to 3/8, a gap of 3 px stays."""
    for axis in (0, 1):
        picture = ndimage.correlate1d(picture, [0.25, 0.5, 0.25], axis, mode="nearest")
    return picture


@cache
def _plane(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns 1, x, y of a plane over the picture, (S * S, 3), and which pixels lie on its border, (S * S,)."""
    ramp = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    x, y = np.meshgrid(ramp, ramp)
    border = np.ones((side, side), bool)
    border[1:-1, 1:-1] = False
    return np.stack([np.ones_like(x), x, y], -1).reshape(-1, 3), border.ravel()


def _ground(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The background, (S, S, 3), a plane for each channel; and its roughness, the usual RGB distance from it.

    Least squares, first on the border, which shows no object, then on all pixels; each time without those that
    are far from the last plane.
    """
    columns, border = _plane(len(pixels))
    flat = pixels.reshape(-1, 3)
    ground = np.broadcast_to(np.median(flat[border], 0), flat.shape)
    near, roughness = NEAR_GROUND[1], NEAR_GROUND[0]
    for candidates in (border, border, True, True):
        distance = np.sqrt(((flat - ground) ** 2).sum(1))
        inside = (distance <= near) & candidates
        if inside.sum() < len(pixels):  # too few for a plane: hardly a background at all
            break
        x = columns[inside]
        ground = columns @ np.linalg.lstsq(x, flat[inside], rcond=None)[0]
        roughness = float(np.median(distance[inside]))
        near = float(np.clip(3 * roughness, *NEAR_GROUND))
    return ground.reshape(pixels.shape), min(roughness, NEAR_GROUND[0])


def _blobs(pixels: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """(S, S) int: 0 where there is background, and a number for each connected blob.

    A blob's pixels are nearer to some colour of the palette than to the background: beyond half of an antialiased
    outline. Away from these, blobs of other colours, too faint for the palette, are still seen.
    """
    # |pixel - color|^2 less |pixel|^2, which does not change where it is least.
    to_colors = ((_PALETTE**2).sum(1) - 2 * pixels @ _PALETTE.T).min(-1) + (pixels**2).sum(-1)
    to_ground = (contrast**2).sum(-1)
    blobs, count = ndimage.label(to_colors < to_ground)
    faint = (to_ground > NEAR_GROUND[1] ** 2) & (ndimage.maximum_filter(blobs, 2 * REACH + 1) == 0)
    if faint.any():
        others, _ = ndimage.label(faint)
        blobs += np.where(faint, others + count, 0)
    return blobs


@cache
def _templates(extent: int) -> tuple[list[tuple[str, int, int, int]], np.ndarray, np.ndarray]:
    """Every shape at every size, place (whole px) and softness near a blob of `extent` px.

    Returns (shape, left, top, size) in a window of extent + 2 REACH, the shapes one after the other and equally
    many of each; their smoothed coverage (n, window ** 2); and its squared norm (n,).
    """
    window = extent + 2 * REACH
    names, masks = [], []
    for shape in SHAPES:
        for size in range(max(3, extent - REACH), extent + REACH + 1):
            corners = [at for at in range(window - size + 1) if abs(at + (size - window) / 2) <= 1.5]
            for top in corners:
                for left in corners:
                    mask = np.zeros((window, window), np.float32)
                    mask[top : top + size, left : left + size] = shape_mask(shape, size)
                    names += [(shape, left, top, size)] * len(SOFTNESS)
                    masks += [ndimage.gaussian_filter(mask, sigma) for sigma in SOFTNESS]
    bank = _smooth(np.stack(masks, -1)).reshape(window**2, -1).T.copy()
    return names, bank, (bank**2).sum(1)


def _fit(contrast: np.ndarray, ground: np.ndarray, place: tuple[slice, ...], roughness: float) -> Detection:
    """The shape that explains a blob best. `contrast` (S, S, 3): picture less background, other blobs blanked."""
    side, largest = len(contrast), round(SIDES[1] * len(contrast) / BASE_SIZE)
    extent = max(axis.stop - axis.start for axis in place)
    too_large, extent = extent > largest, min(extent, largest)
    window = extent + 2 * REACH
    y0, x0 = ((axis.start + axis.stop - window) // 2 for axis in place)
    padded = np.pad(contrast, ((window, window), (window, window), (0, 0)))
    piece = padded[y0 + window : y0 + 2 * window, x0 + window : x0 + 2 * window].reshape(-1, 3)

    names, bank, norms = _templates(extent)
    # Least squares over shape, place, size and contrast: of the piece's squared norm, template t of the best
    # contrast explains |sum t piece|^2 / sum t^2.
    products = bank @ piece
    gains = ((products**2).sum(1) / norms).reshape(len(SHAPES), -1)
    of_each = gains.argmax(1) + np.arange(len(SHAPES)) * gains.shape[1]
    # Each shape at its best, (shapes, window ** 2, 3).
    drawn = bank[of_each][..., None] * (products[of_each] / norms[of_each, None])[:, None]
    winner = int(gains.max(1).argmax())
    best = of_each[winner]

    shape, left, top, size = names[best]
    x, y = left + x0, top + y0
    canvas = np.zeros((side + 2 * window, side + 2 * window), bool)
    canvas[y + window : y + window + size, x + window : x + window + size] = shape_mask(shape, size) >= 0.5
    mask = canvas[window:-window, window:-window]
    behind = ground[mask].mean(0) if mask.any() else ground.mean((0, 1))
    color, color_clarity = _nearest_color(behind + products[best] / norms[best], behind)
    match = _overlap(piece, drawn[winner], roughness) * _shape_clarity(piece, drawn, winner) * color_clarity
    score = 0.0 if too_large else min(1.0, (match - CLEAR[0]) / (CLEAR[1] - CLEAR[0]))
    box = (float(x), float(y), float(x + size), float(y + size))
    return Detection(name=shape, color=color, box=box, score=max(score, 1e-6), mask=mask)


def _overlap(piece: np.ndarray, drawn: np.ndarray, roughness: float) -> float:
    """Intersection over union of two contrasts (n, 3), `piece` known up to the background's roughness.

    |a - b| is union less intersection, and max(|a|, |b|) union, if a and b are masks times one colour.
    """
    apart = np.maximum(np.sqrt(((piece - drawn) ** 2).sum(1)) - roughness, 0).sum()
    union = np.maximum(np.sqrt((piece**2).sum(1)) - roughness, np.sqrt((drawn**2).sum(1))).sum()
    return float(max(0.0, 1 - apart / union))


def _shape_clarity(piece: np.ndarray, drawn: np.ndarray, winner: int) -> float:
    """How far the piece is from being half-way between the winner and any other shape, each drawn at its best.

    Measured along the line between the two, so what is like neither, such as noise, does not count.
    """
    line = np.delete(drawn, winner, 0) - drawn[winner]
    along = ((piece - drawn[winner]) * line).sum((1, 2)) / (line**2).sum((1, 2))
    share = float(np.clip(along.max(), 0, 0.5))  # 0: the winner itself
    return _clarity(share, 1 - share)


def _nearest_color(color: np.ndarray, behind: np.ndarray) -> tuple[str, float]:
    """The palette's nearest colour, and how much nearer it is than any other or than the background."""
    to_colors = np.sqrt(((_PALETTE - color) ** 2).sum(1))
    nearest, second = to_colors.argsort()[:2]
    other = min(to_colors[second], np.sqrt(((behind - color) ** 2).sum()))
    return COLORS[nearest], _clarity(float(to_colors[nearest]), float(other))


def _clarity(nearest: float, other: float) -> float:
    """1 if the nearest is at most half as far as the other, 0 if no nearer."""
    return min(1.0, max(0.0, 2 * (1 - nearest / max(other, 1e-6))))
