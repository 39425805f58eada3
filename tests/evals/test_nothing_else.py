"""Strict rules: true scenes pass, and what GenEval's own rules let be fails."""

from __future__ import annotations

from pathlib import Path

import yaml

from evals.detectors.detection import Detection
from evals.detectors.world_shapes import SHAPES
from evals.geneval.nothing_else import nothing_else
from evals.geneval.rules import judge
from scripts.demo.captions import captions, counting, single_object
from scripts.demo.scenes import Scene, Thing, make_scene

ROOT = Path(__file__).parents[2]


def found(things: tuple[Thing, ...]) -> list[Detection]:
    return [Detection(name=one.shape, color=one.color, box=one.box, score=1.0) for one in things]


def test_a_scene_is_all_that_its_captions_name_and_one_object_more_is_too_many() -> None:
    asked = 0
    for index in range(200):
        scene: Scene = make_scene(index, seed=5, split="val")
        for metadata in captions(scene):
            strict = nothing_else(metadata, SHAPES)
            assert judge(strict, found(scene.things)).correct
            for shape in SHAPES:
                extra = Thing(shape=shape, color=scene.things[0].color, left=0, top=0, size=9)
                assert not judge(strict, found((*scene.things, extra))).correct
            asked += 1
    assert asked > 300


def test_geneval_s_own_rules_accept_more_than_was_asked_for() -> None:
    four = found(tuple(Thing(shape="circle", color="red", left=n, top=n, size=9) for n in range(4)))
    circle = single_object("circle")
    assert judge(circle, four).correct and not judge(nothing_else(circle, SHAPES), four).correct


def test_counting_stays_as_strict_as_it_was() -> None:
    two = found(tuple(Thing(shape="circle", color="red", left=n, top=n, size=9) for n in range(2)))
    strict = nothing_else(counting("circle", 2), SHAPES)
    assert judge(strict, two).correct and not judge(strict, two[:1]).correct
    assert {"class": "circle", "count": 3} in strict["exclude"]


def test_only_what_a_prompt_names_may_be_counted() -> None:
    strict = nothing_else(single_object("circle"))
    circle = Thing(shape="circle", color="red", left=0, top=0, size=9)
    square = Thing(shape="square", color="red", left=20, top=0, size=9)
    assert (
        judge(strict, found((circle, square))).correct and not judge(strict, found((circle, circle))).correct
    )


def test_what_a_prompt_forbids_otherwise_stays_forbidden() -> None:
    no_cross = {**single_object("circle"), "exclude": [{"class": "cross", "count": 1}]}
    assert {"class": "cross", "count": 1} in nothing_else(no_cross)["exclude"]


def test_every_rules_reward_of_the_recipes_is_strict() -> None:
    """By GenEval's own rules a generator learns to fill its pictures."""
    for path in (ROOT / "post_training" / "recipes").glob("*.yaml"):
        rewards = yaml.safe_load(path.read_text("utf-8"))["rewards"]
        assert all(one["strict"] in ("named", "all") for one in rewards if one["kind"] == "rules"), path.name
