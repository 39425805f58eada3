"""The learned detector of the miniature world: what it reads from heat, colours and boxes, and how it is opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from evals.detectors.centers import STRIDE, Centers, CentersConfig, CentersDetector, found
from evals.detectors.opening import CENTERS, detector_needs, open_detector
from evals.detectors.world_shapes import COLORS, SHAPES
from evals.geneval.rules import judge
from scripts.demo.captions import captions
from scripts.demo.held_out_judge import targets
from scripts.demo.scenes import Scene, Thing, make_scene

SURE = 6.0  # a logit


def ideal(scene: Scene) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a perfect detector would say of a scene."""
    heat, places, colors, edges = targets([scene])
    cells = heat.shape[-1]
    said = torch.where(heat.nan_to_num(0) > 0, SURE, -SURE)[0]
    named, boxes = torch.zeros(len(COLORS), cells, cells), torch.zeros(4, cells, cells)
    rows, columns = places[:, 1], places[:, 2]
    named[colors, rows, columns] = SURE
    boxes[:, rows, columns] = edges.T
    return said, named, boxes


@pytest.mark.parametrize("size", [32, 48])
def test_what_it_is_taught_is_what_the_scene_shows(size: int) -> None:
    for index in range(60):
        scene = make_scene(index, seed=3, split="val", size=size)
        seen = found(*ideal(scene))
        expected = sorted((thing.shape, thing.color, thing.box) for thing in scene.things)
        assert sorted((one.name, one.color, tuple(map(round, one.box))) for one in seen) == expected
        for metadata in captions(scene):
            assert judge(metadata, seen).correct, metadata["prompt"]  # counting asks for 0.9


def test_of_two_shapes_at_one_place_the_hotter_counts() -> None:
    scene = Scene(
        size=32,
        kind="single",
        background=make_scene(0, seed=0).background,
        things=(Thing(shape="circle", color="red", left=8, top=10, size=11),),
    )
    heat, named, boxes = ideal(scene)
    heat[SHAPES.index("square")] = torch.where(heat[SHAPES.index("circle")] > 0, 1.0, -SURE)
    (only,) = found(heat, named, boxes)
    assert only.name == "circle" and only.score > 0.99
    heat[SHAPES.index("circle")] = torch.where(heat[SHAPES.index("circle")] > 0, 0.2, -SURE)
    (only,) = found(heat, named, boxes)
    assert only.name == "square" and 0.8 < only.score < 0.9


def test_nothing_hot_is_nothing_found() -> None:
    cells = 16
    cold = torch.full((len(SHAPES), cells, cells), -SURE)
    assert found(cold, torch.zeros(len(COLORS), cells, cells), torch.zeros(4, cells, cells)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random weights."""
    path = tmp_path_factory.mktemp("centers") / "judge"
    torch.manual_seed(0)
    Centers(CentersConfig(width=8, layers=1)).save_pretrained(path)
    return path


def test_a_folder_is_opened_by_its_name_and_finds_the_same_again(folder: Path) -> None:
    assert CentersConfig.model_type == CENTERS and detector_needs(str(folder), "no/clip") == []
    first, second = (open_detector(str(folder), "no/clip", "cpu") for _ in range(2))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    seen, again = (
        [(one.name, one.color, one.box, one.score) for one in detector.detect(picture)]
        for detector in (first, second)
    )
    assert seen and seen == again
    assert all(isinstance(score, np.float32) for *_, score in seen)
    assert first.identity == second.identity == json.loads(json.dumps(dict(first.identity)))
    assert first.classes == SHAPES and first.colors == COLORS


def test_other_weights_are_another_judge(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    Centers(CentersConfig(width=8, layers=1)).save_pretrained(tmp_path)
    assert CentersDetector.from_folder(tmp_path).identity != CentersDetector.from_folder(folder).identity


def test_damaged_weights_are_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | {"layers": 2}))
    with pytest.raises(UserError, match=r"weights do not fit config\.json"):
        open_detector(str(tmp_path), "no/clip", "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.safetensors: empty"):
        open_detector(str(tmp_path), "no/clip", "cpu")


def test_odd_sides_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"divisible by {STRIDE}, found 33 x 32"):
        CentersDetector.from_folder(folder).detect(Image.new("RGB", (33, 32)))
