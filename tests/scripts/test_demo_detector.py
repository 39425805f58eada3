"""The miniature world's detector: exact on clean pictures, tolerant of good reconstructions, and honest."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from evals.detectors import world as detector
from evals.detectors import world_shapes
from scripts.demo import detected, scenes


@pytest.mark.slow
def test_clean_scenes_are_detected_exactly(many_scenes: list[scenes.Scene]) -> None:
    for scene in many_scenes:
        image = scenes.render(scene)
        found = detector.detect(image)
        truth = sorted((thing.shape, thing.color, thing.box) for thing in scene.things)
        assert sorted((one.name, one.color, one.box) for one in found) == truth
        assert min(one.score for one in found) > 0.9  # what GenEval asks for where it counts
        assert detected.scene_detected(scene, image)


@pytest.mark.parametrize("size", [48, 64])
def test_larger_worlds_are_detected_too(size: int) -> None:
    truth = [scenes.make_scene(index, seed=7, split="val", size=size) for index in range(60)]
    assert detected.detected_share(truth, [scenes.render(scene) for scene in truth]) == 1


def test_the_picture_s_layout_does_not_matter(two_things: scenes.Scene) -> None:
    scene = two_things
    image = torch.from_numpy(scenes.render(scene)).permute(2, 0, 1)
    for picture in (image, image.float() / 255, (image.float() / 255).numpy()):
        assert detected.scene_detected(scene, picture)
    exact, other = (detector.detect(one) for one in (image, image.permute(1, 2, 0).double().numpy() / 255))
    told = [[(one.name, one.color, one.box, one.score) for one in found] for found in (exact, other)]
    assert told[0] == told[1]
    assert {one.name: int(one.mask.sum()) for one in exact} == {
        thing.shape: int((world_shapes.shape_mask(thing.shape, thing.size) >= 0.5).sum())
        for thing in scene.things
    }
    for wrong in (
        torch.zeros(1, 3, 32, 32),
        torch.zeros(3, 32, 16),
        torch.zeros(3, 32, 32, dtype=torch.int64),
    ):
        with pytest.raises(ValueError, match="image"):
            detector.detect(wrong)


@pytest.mark.parametrize(
    ("blur", "noise", "cast"),
    [(0.8, 0, 0), (1.0, 0, 0), (0, 26, 0), (0, 24, 0), (0.7, 28, 0), (0, 0, 8), (0.6, 30, 5)],
)
def test_good_reconstructions_pass(
    many_scenes: list[scenes.Scene], blur: float, noise: float, cast: float
) -> None:
    """Blur (standard deviation in px), noise (PSNR in dB) and a shift of each channel (standard deviation)."""
    rng = np.random.default_rng(0)
    pictures = []
    for scene in many_scenes[:100]:
        picture = gaussian_filter(scenes.render(scene).astype(float), (blur, blur, 0))
        picture += rng.normal(0, 255 * 10 ** (-noise / 20), picture.shape) if noise else 0
        picture += rng.normal(0, cast, 3)
        pictures.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    assert detected.detected_share(many_scenes[:100], pictures) >= 0.97


ALTERED = {
    "another colour": lambda circle, square: (replace(circle, color="orange"), square),
    "another shape": lambda circle, square: (replace(circle, shape="cross"), square),
    "colours swapped": lambda circle, square: (replace(circle, color="blue"), replace(square, color="red")),
    "one missing": lambda circle, square: (circle,),
    "one too many": lambda circle, square: (circle, square, replace(circle, left=19, top=2)),
    "moved": lambda circle, square: (replace(circle, left=6), square),
    "nothing": lambda circle, square: (),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_altered_scenes_are_refused(alter: Any, two_things: scenes.Scene) -> None:
    scene = two_things
    image = scenes.render(replace(scene, things=alter(*scene.things)))
    assert not detected.scene_detected(scene, image)


def test_what_is_no_object_is_refused(two_things: scenes.Scene) -> None:
    scene = two_things
    smeared, odd = scenes.render(scene), scenes.render(scene)
    smeared[28:31, 2:12] = (200, 200, 90)  # a smear where nothing should be
    odd[scene.things[0].top : scene.things[0].top + 11, scene.things[0].left : 13] = (90, 230, 230)
    for image in (smeared, odd):
        assert not detected.scene_detected(scene, image)
    assert ("square", "blue") in {(one.name, one.color) for one in detector.detect(odd)}
    rng = np.random.default_rng(0)
    for image in (
        np.full((32, 32, 3), 128),
        np.zeros((32, 32, 3)),
        np.full((32, 32, 3), 255),
        rng.integers(0, 256, (32, 32, 3)),
    ):
        assert not detected.scene_detected(scene, image.astype(np.uint8))


def replaced(scene: scenes.Scene, coverage: np.ndarray) -> np.ndarray:
    """The scene with its first object drawn with this coverage instead."""
    first = scene.things[0]
    image = scene.background.draw(scene.size)
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        mask = coverage if thing is first else world_shapes.shape_mask(thing.shape, thing.size)
        image[y0:y1, x0:x1] += mask[..., None] * (world_shapes.PALETTE[thing.color] - image[y0:y1, x0:x1])
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("two", itertools.combinations(world_shapes.SHAPES[:3], 2), ids="-".join)
def test_a_shape_between_two_others_is_neither(two_things: scenes.Scene, two: tuple[str, str]) -> None:
    between = sum(world_shapes.shape_mask(shape, 11) for shape in two) / 2
    found = detector.detect(replaced(two_things, np.asarray(between)))
    assert [one.score > detector.MIN_SCORE for one in found] == [True, False]


def test_damaged_objects_are_refused(two_things: scenes.Scene) -> None:
    circle = world_shapes.shape_mask("circle", 11)
    half, ring, faded = circle.copy(), circle.copy(), circle * 0.55
    half[:, 6:] = 0
    ring[3:8, 3:8] = 0
    for coverage in (half, ring, faded):
        image = replaced(two_things, coverage)
        assert not detected.scene_detected(two_things, image)
        assert [one.name for one in detector.detect(image) if one.score > detector.MIN_SCORE] == ["square"]


def test_an_extra_blob_of_no_palette_colour_is_refused(many_scenes: list[scenes.Scene]) -> None:
    scene = next(scene for scene in many_scenes if scene.kind == "single" and scene.things[0].left > 14)
    image = scenes.render(scene)
    assert detected.scene_detected(scene, image)
    image[12:20, 2:10] -= 30  # a grey darker than the background: 52 away, nearer to it than to black
    assert not detected.scene_detected(scene, image)
