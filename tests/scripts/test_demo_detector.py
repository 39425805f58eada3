"""The miniature world's detector: exact on clean pictures, tolerant of good reconstructions, and honest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import detector
import numpy as np
import pytest
import scenes
import torch


def test_clean_scenes_are_detected_exactly(many_scenes: list[scenes.Scene]) -> None:
    for scene in many_scenes:
        image = scenes.render(scene)
        found = sorted((one.shape, one.color, one.box) for one in detector.detect(image))
        assert found == sorted((thing.shape, thing.color, thing.box) for thing in scene.things)
        assert detector.scene_detected(scene, image)


@pytest.mark.parametrize("size", [48, 64])
def test_larger_worlds_are_detected_too(size: int) -> None:
    truth = [scenes.make_scene(index, seed=7, split="val", size=size) for index in range(60)]
    assert detector.detected_share(truth, [scenes.render(scene) for scene in truth]) == 1


def test_the_picture_s_layout_does_not_matter(two_things: scenes.Scene) -> None:
    scene = two_things
    image = torch.from_numpy(scenes.render(scene)).permute(2, 0, 1)
    for picture in (image, image.float() / 255, (image.float() / 255).numpy()):
        assert detector.scene_detected(scene, picture)
    with pytest.raises(ValueError, match="image"):
        detector.detect(torch.zeros(1, 3, 32, 32))


def test_good_reconstructions_pass(many_scenes: list[scenes.Scene]) -> None:
    """Blur, noise and a shift of colour, together about 28 dB."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    pictures = []
    for scene in many_scenes[:200]:
        blurred = gaussian_filter(scenes.render(scene).astype(float), (0.6, 0.6, 0))
        changed = blurred + rng.normal(0, 6, blurred.shape) + rng.normal(0, 5, 3)
        pictures.append(np.clip(np.rint(changed), 0, 255).astype(np.uint8))
    assert detector.detected_share(many_scenes[:200], pictures) >= 0.97


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
    assert not detector.scene_detected(scene, image)


def test_what_is_no_object_is_refused(two_things: scenes.Scene) -> None:
    scene = two_things
    smeared, odd = scenes.render(scene), scenes.render(scene)
    smeared[28:31, 2:12] = (200, 200, 90)  # a smear where nothing should be
    odd[scene.things[0].top : scene.things[0].top + 11, scene.things[0].left : 13] = (90, 230, 230)
    for image in (smeared, odd):
        assert not detector.scene_detected(scene, image)
    assert ("square", "blue") in {(one.shape, one.color) for one in detector.detect(odd)}
    rng = np.random.default_rng(0)
    for image in (np.zeros((32, 32, 3)), np.full((32, 32, 3), 255), rng.integers(0, 256, (32, 32, 3))):
        assert not detector.scene_detected(scene, image.astype(np.uint8))
