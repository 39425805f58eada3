"""The demo's second judge: what it is asked, what it learns from, and that its figures are of scenes it never saw."""

from __future__ import annotations

import json
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.images import to_pil
from evals.detectors.centers import CentersDetector
from evals.detectors.detection import Detection
from evals.detectors.world import WorldDetector
from evals.geneval.rules import TAGS, judge
from scripts.demo import held_out_judge
from scripts.demo.captions import holds
from scripts.demo.held_out_judge import targets
from scripts.demo.judged_pairs import accuracy, pairs
from scripts.demo.scenes import Scene, render
from scripts.demo.world import read_world
from scripts.demo.worn_pictures import worn


def test_pairs_are_true_and_false_alike_and_certainly_so(many_scenes: list[Scene]) -> None:
    asked = pairs(many_scenes[:250], seed=0)
    for tag in TAGS:
        of_tag = [pair for pair in asked if pair.metadata["tag"] == tag]
        assert len(of_tag) > 30
        assert sum(pair.holds for pair in of_tag) * 2 == len(of_tag)
    for pair in asked:
        things = many_scenes[pair.scene].things
        assert holds(pair.metadata, things) == pair.holds
        # No order of the same objects makes a false one true.
        verdicts = {
            judge(
                pair.metadata,
                [
                    Detection(name=thing.shape, color=thing.color, box=thing.box, score=1 - place / 100)
                    for place, thing in enumerate(order)
                ],
            ).correct
            for order in permutations(things)
        }
        assert verdicts == {pair.holds}
    # False ones come near: most of the words are those of the true one before it.
    shared = [
        len({*true.metadata["prompt"].split()} & {*false.metadata["prompt"].split()})
        for true, false in zip(asked[::2], asked[1::2], strict=True)
    ]
    assert np.mean(shared) > 4


def test_accuracy_of_one_that_knows_and_of_one_that_does_not(many_scenes: list[Scene]) -> None:
    scenes = many_scenes[:120]
    pictures = [Image.fromarray(render(scene)) for scene in scenes]
    asked = pairs(scenes, seed=1)
    exact = accuracy(WorldDetector(), pictures, asked)
    assert exact == {"overall": 1.0, **dict.fromkeys(TAGS, 1.0)}

    class Blind(WorldDetector):
        def detect(self, picture: Image.Image) -> list[Detection]:
            return []

    assert accuracy(Blind(), pictures, asked) == {"overall": 0.5, **dict.fromkeys(TAGS, 0.5)}


def test_worn_pictures_are_other_pictures_of_the_same_objects(many_scenes: list[Scene]) -> None:
    scenes = many_scenes[:200]
    pixels = torch.stack([torch.from_numpy(render(scene)) for scene in scenes]).permute(0, 3, 1, 2) / 255
    first, again = (worn(pixels, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again) and first.min() >= 0 and first.max() <= 1
    same = (first == pixels).flatten(1).all(1)
    assert 0.1 < same.float().mean() < 0.4
    apart = (first - pixels)[~same].abs().flatten(1).mean(1)
    assert 0.01 < apart.median() < 0.1


def test_what_it_minimises_is_least_at_the_truth(many_scenes: list[Scene]) -> None:
    scenes = many_scenes[:8]
    heat, places, colors, edges = wanted = targets(scenes)

    def said(hot: float, named: float, away: float) -> SimpleNamespace:
        batch, rows, columns = places.T
        names, boxes = torch.zeros(8, 10, 16, 16), torch.zeros(8, 4, 16, 16)
        names[batch, colors, rows, columns] = named
        boxes[batch, :, rows, columns] = edges + away
        return SimpleNamespace(parts=(torch.where(heat.nan_to_num(1) > 0, hot, -hot), names, boxes))

    def of(hot: float = 8.0, named: float = 12.0, away: float = 0.0) -> float:
        parts = said(hot, named, away).parts
        return float(held_out_judge.loss(lambda _: parts, torch.zeros(8, 3, 32, 32), wanted))  # type: ignore[arg-type]

    assert of() < 0.1
    assert all(worse > of() + 0.1 for worse in (of(hot=0.0), of(named=0.0), of(away=2.0)))


@pytest.mark.slow
def test_it_learns_from_training_scenes_and_states_figures_of_others(
    world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "judge"
    arguments = ["--world", str(world_folder), "--out", str(out), "--steps", "12"]
    monkeypatch.setattr(sys, "argv", ["held_out_judge.py", *arguments])
    monkeypatch.setattr(held_out_judge, "BATCH", 16)
    learned: set[int] = set()
    training = [scene.as_dict() for scene in read_world(world_folder, "train").scenes]

    def watched(scenes: list[Scene]) -> object:
        learned.update(training.index(scene.as_dict()) for scene in scenes)
        return targets(scenes)

    monkeypatch.setattr(held_out_judge, "targets", watched)
    held_out_judge.main()
    assert len(learned) > 50
    stated = json.loads((out / "judge.json").read_text())
    held_out = read_world(world_folder, "val")
    asked = pairs(held_out.scenes, 0)
    again = accuracy(CentersDetector.from_folder(out), [to_pil(one) for one in held_out.images], asked)
    assert stated["accuracy"] == again and stated["pairs"] == len(asked) and stated["steps"] == 12
