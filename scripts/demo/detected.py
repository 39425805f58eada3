"""Whether a picture still shows its scene, by the exact detector: what the demo counts of reconstructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from evals.detectors.detection import Box
from evals.detectors.world import MIN_SCORE, detect
from evals.detectors.world_shapes import BASE_SIZE
from scripts.demo.scenes import Scene


def scene_detected(scene: Scene, image: Any, tolerance: float = 2.0) -> bool:
    """Whether the picture shows the scene's objects, all of them and nothing else.

    One to one, detections and objects agree in shape and colour, with centres at most `tolerance` px apart (in a
    picture of 32 px; other sides scale it); and every detection scores more than `MIN_SCORE`. So a smudge of an
    object's size, which scores less, fails the picture too.
    """
    reach = tolerance * scene.size / BASE_SIZE
    found = detect(image)
    if len(found) != len(scene.things) or any(one.score <= MIN_SCORE for one in found):
        return False
    # Objects are far enough apart for a detection to be within reach of one only.
    return all(
        any(
            (one.name, one.color) == (thing.shape, thing.color)
            and np.hypot(*np.subtract(_center(one.box), thing.center)) <= reach
            for one in found
        )
        for thing in scene.things
    )


def detected_share(scenes: Sequence[Scene], images: Iterable[Any]) -> float:
    """Share of the scenes, in [0, 1], that `scene_detected` recognises in their pictures."""
    verdicts = [scene_detected(scene, image) for scene, image in zip(scenes, images, strict=True)]
    return sum(verdicts) / len(verdicts)


def _center(box: Box) -> tuple[float, float]:
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
