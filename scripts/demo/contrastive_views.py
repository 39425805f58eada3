"""What the demo's encoder learns from: windows around single objects and whole pictures, and what is said of them.

Legend: B views, N patches of a view, T objects in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evals.detectors.world_shapes import COLORS, SHAPES
from scripts.demo.captions import describe, describe_one
from scripts.demo.scenes import Thing
from scripts.demo.world import World

# Word-level: words that tell nothing here (a, photo, of, at, the, and ...) are left out. 0 pads.
PLACES = ("top", "bottom", "left", "right", "center")
WORDS = ("large", "small", *COLORS, *SHAPES, *PLACES)
TOKEN = {word: number for number, word in enumerate(WORDS, start=1)}
OBJECT_LENGTH = 6  # tokens of one object: at most five words; the last position, always padding, is pooled
TEXT_LENGTH = 21  # likewise of four objects

GRID = 8  # patches along each side of a picture
WINDOW = 4  # patches along each side of a window: 16 px at 32 px, so that an object of 13 px always fits


class Views(NamedTuple):
    """Pictures, or windows of them, and what is said of the T objects in them."""

    pixels: Tensor  # (B, 3, s, s) in [-1, 1]
    positions: Tensor  # (B, N): which patches of the picture these are
    descriptions: Tensor | None  # (B, TEXT_LENGTH) of all that is in the picture; None for windows
    objects: Tensor  # (T, OBJECT_LENGTH): the words said of each object
    rows: Tensor  # (T,): the view that shows it
    covered: Tensor  # (T, N): share of each patch in the object's box


def tokenize(texts: Sequence[str], length: int = TEXT_LENGTH) -> Tensor:
    """(B, length) int64."""
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        tokens = [TOKEN[word] for word in text.replace(",", "").split() if word in TOKEN]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def to_pixels(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1], as the saved image processor does (mean and std 0.5)."""
    return images.float() / 127.5 - 1


def coverage(things: Sequence[Thing], side: int) -> Tensor:
    """Share of each patch of a picture of `side` px that lies in an object's box: (T, GRID**2)."""
    patch = side // GRID
    near = torch.tensor([[thing.top, thing.left] for thing in things], dtype=torch.float32)[:, :, None]
    far = near + torch.tensor([thing.size for thing in things], dtype=torch.float32)[:, None, None]
    cells = torch.arange(GRID, dtype=torch.float32) * patch
    down, across = ((far.minimum(cells + patch) - near.maximum(cells)).clamp(min=0) / patch).unbind(1)
    return (down[:, :, None] * across[:, None, :]).flatten(1)


def window_batches(world: World, batch: int, rng: np.random.Generator) -> Iterator[Views]:
    """Windows of `WINDOW` x `WINDOW` patches, each around one object, without end."""
    side = world.images.shape[-1]
    patch = side // GRID
    things = [(row, thing) for row, scene in enumerate(world.scenes) for thing in scene.things]
    ids = tokenize([describe_one(thing, side) for _, thing in things], OBJECT_LENGTH)
    rows = torch.tensor([row for row, _ in things])
    corners = torch.tensor([[thing.top, thing.left] for _, thing in things]) // patch
    top, left = corners.clamp(max=GRID - WINDOW).unbind(1)
    steps = torch.arange(WINDOW)
    positions = ((top[:, None] + steps)[:, :, None] * GRID + (left[:, None] + steps)[:, None, :]).flatten(1)
    covered = coverage([thing for _, thing in things], side).gather(1, positions)
    for picked in map(torch.from_numpy, _draws(len(things), batch, rng)):
        windows = [
            world.images[row, :, y * patch : (y + WINDOW) * patch, x * patch : (x + WINDOW) * patch]
            for row, y, x in zip(
                rows[picked].tolist(), top[picked].tolist(), left[picked].tolist(), strict=True
            )
        ]
        yield Views(
            pixels=to_pixels(torch.stack(windows)),
            positions=positions[picked],
            descriptions=None,
            objects=ids[picked],
            rows=torch.arange(batch),
            covered=covered[picked],
        )


def picture_batches(world: World, batch: int, rng: np.random.Generator) -> Iterator[Views]:
    """Whole pictures and their descriptions, whose order of objects is drawn anew each time, without end."""
    side = world.images.shape[-1]
    for picked in _draws(len(world.scenes), batch, rng):
        scenes = [world.scenes[row] for row in picked]
        things = [thing for scene in scenes for thing in scene.things]
        yield Views(
            pixels=to_pixels(world.images[torch.from_numpy(picked)]),
            positions=torch.arange(GRID**2).expand(batch, -1),
            descriptions=tokenize([describe(scene, rng) for scene in scenes]),
            objects=tokenize([describe_one(thing, side) for thing in things], OBJECT_LENGTH),
            rows=torch.tensor([row for row, scene in enumerate(scenes) for _ in scene.things]),
            covered=coverage(things, side),
        )


def _draws(length: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of row numbers: every row once, in a new order, then again."""
    order = np.empty(0, int)
    while True:
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(length)])
        yield order[:batch]
        order = order[batch:]
