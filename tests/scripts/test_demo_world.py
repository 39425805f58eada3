"""The miniature world: what is said of a scene is true, and what is written can be read."""

from __future__ import annotations

import json
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from evals.detectors import world_shapes
from evals.geneval.phrasing import position
from evals.geneval.rules import relations
from evals.scorers.asked import questions_of, read_phrasing
from evals.scorers.prompts import ScoredPrompt
from scripts.demo import make_world, questions, scenes, world
from scripts.demo.captions import all_prompts, captions, held_out, holds, reward_prompts, training_prompts

SEED = 7  # that of `many_scenes` and `world_folder` too


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Scenes


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    first = scenes.make_scene(5, seed=1)
    scenes.make_scene(6, seed=1)
    assert scenes.make_scene(5, seed=1) == first
    assert (scenes.render(first) == scenes.render(scenes.make_scene(5, seed=1))).all()
    others = [
        scenes.make_scene(6, seed=1),
        scenes.make_scene(5, seed=2),
        scenes.make_scene(5, seed=1, split="val"),
    ]
    assert first not in others


@pytest.mark.parametrize("size", [32, 48, 64])
def test_objects_keep_their_distance(size: int) -> None:
    for index in range(150):
        scene = scenes.make_scene(index, seed=SEED, size=size)
        boxes = [thing.box for thing in scene.things]
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            assert min(x0, y0) >= scenes.MARGIN and max(x1, y1) <= size - scenes.MARGIN
            for u0, v0, u1, v1 in boxes[:number]:
                assert max(u0 - x1, x0 - u1, v0 - y1, y0 - v1) >= scenes.GAP


def test_every_palette_colour_differs_from_every_background() -> None:
    palette = np.array(list(world_shapes.PALETTE.values()), float)
    for index in range(300):
        ground = scenes.make_scene(index, seed=SEED).background.draw(32).reshape(-1, 1, 3)
        assert np.linalg.norm(ground - palette, axis=-1).min() >= world_shapes.CONTRAST


def test_the_world_has_everything_captions_speak_of(many_scenes: list[scenes.Scene]) -> None:
    things = [thing for scene in many_scenes for thing in scene.things]
    assert {thing.shape for thing in things} == set(world_shapes.SHAPES)
    assert {thing.color for thing in things} == set(world_shapes.COLORS)
    assert {len(scene.things) for scene in many_scenes} == {1, 2, 3, 4}
    same = Counter(len(scene.things) for scene in many_scenes if scene.kind == "same")
    assert set(same) == {2, 3, 4} and min(same.values()) > 20


def test_ground_truth_survives_json(many_scenes: list[scenes.Scene]) -> None:
    scene = many_scenes[0]
    assert scenes.Scene.from_dict(json.loads(json.dumps(scene.as_dict()))) == scene


# Captions


def test_relations_follow_the_thresholds() -> None:
    middle = (10.0, 10.0, 20.0, 20.0)
    assert relations((0, 10, 5, 20), middle) == {"left of"}
    assert relations((25, 10, 31, 20), middle) == {"right of"}
    assert relations((10, 0, 20, 6), middle) == {"above"}
    assert relations((22, 22, 31, 31), middle) == {"right of", "below"}
    assert relations((11, 11, 21, 21), middle) == set()  # an offset below a tenth of both sizes is none
    assert relations(middle, middle) == set()


def test_captions_are_true_and_name_all_there_is(many_scenes: list[scenes.Scene]) -> None:
    seen = Counter()
    for scene in many_scenes:
        for metadata in captions(scene):
            seen[metadata["tag"]] += 1
            assert holds(metadata, scene.things), (metadata, scene)
            named = Counter()
            for wanted in metadata["include"]:
                named[wanted["class"]] += wanted["count"]
            assert named == Counter(thing.shape for thing in scene.things)
    assert set(seen) == {"single_object", "two_object", "counting", "colors", "position", "color_attr"}


def test_captions_are_false_of_altered_scenes(two_things: scenes.Scene) -> None:
    scene = two_things
    for metadata in captions(scene):
        assert not holds(metadata, scene.things[:1])
        if metadata["tag"] == "color_attr":
            assert not holds(metadata, (replace(scene.things[0], color="green"), scene.things[1]))
        if metadata["tag"] == "position":
            swapped = (replace(scene.things[0], left=20, top=18), replace(scene.things[1], left=1, top=1))
            assert not holds(metadata, swapped)


def test_metadata_is_geneval_s() -> None:
    assert position("circle", "left of", "square") == {
        "tag": "position",
        "include": [
            {"class": "square", "count": 1},
            {"class": "circle", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a photo of a circle left of a square",
    }
    prompts = {metadata["prompt"]: metadata for _, metadata in all_prompts()}
    assert prompts["a photo of three crosses"]["exclude"] == [{"class": "cross", "count": 4}]
    assert "a photo of an orange triangle and a white cross" in prompts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_prompts_cover_all_tags_and_numbers(seed: int) -> None:
    chosen = held_out(seed)
    counted = Counter(metadata["tag"] for metadata in chosen)
    assert counted == {
        "single_object": 2,
        "two_object": 4,
        "counting": 3,
        "colors": 8,
        "position": 16,
        "color_attr": 24,
    }
    assert len({metadata["prompt"] for metadata in chosen}) == len(chosen)
    assert {m["include"][0]["count"] for m in chosen if m["tag"] == "counting"} == {2, 3, 4}


def test_prompts_to_tune_on_are_of_every_tag_and_none_is_held_out() -> None:
    chosen = training_prompts(SEED)
    texts = [metadata["prompt"] for metadata in chosen]
    assert not set(texts) & {metadata["prompt"] for metadata in held_out(SEED)} and len(set(texts)) == len(
        texts
    )
    assert {metadata["tag"] for metadata in chosen} == {metadata["tag"] for metadata in held_out(SEED)}


@pytest.mark.parametrize("seed", [0, SEED])
def test_reward_prompts_are_all_that_are_not_held_out(seed: int) -> None:
    texts = [metadata["prompt"] for metadata in reward_prompts(seed)]
    barred = {metadata["prompt"] for metadata in held_out(seed)}
    assert len(set(texts)) == len(texts) and not set(texts) & barred
    assert set(texts) | barred == {metadata["prompt"] for _, metadata in all_prompts()}
    assert {metadata["prompt"] for metadata in training_prompts(seed)} <= set(texts)
    by_tag = Counter(metadata["tag"] for metadata in reward_prompts(seed))
    assert by_tag["counting"] == 9 and by_tag["single_object"] == 2


def test_no_training_caption_repeats_a_held_out_prompt() -> None:
    barred = {metadata["prompt"] for metadata in held_out(SEED)}
    tags = Counter()
    for index in range(600):
        _, record = make_world.annotate(index, seed=SEED, split="train", size=32)
        written = {record["caption"], record["description"], *(one["caption"] for one in record["captions"])}
        assert not written & barred
        tags[record["tag"]] += 1
    assert len(tags) == 7 and min(tags.values()) > 15


# Questions


def test_answers_are_balanced_and_true(many_scenes: list[scenes.Scene]) -> None:
    images = [f"val/{index:06d}.png" for index in range(len(many_scenes))]
    talk = questions.conversations(images, many_scenes, seed=SEED)
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in questions.KINDS}
    for entry in talk:
        scene = many_scenes[images.index(entry["image"])]
        turns = entry["conversations"]
        assert turns[0]["value"].startswith("<image>\n")
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * len(entry["kinds"])
        for kind, question, answer in zip(entry["kinds"], turns[::2], turns[1::2], strict=True):
            answers[kind][answer["value"]] += 1
            words = question["value"].removeprefix("<image>\n").rstrip("?").split()
            assert answer["value"] == true_answer(kind, words, scene), (question, scene)
    for counted in answers.values():
        assert len(set(counted.values())) == 1 and min(counted.values()) > 20
    assert set(answers["count"]) == {"1", "2", "3", "4"}
    assert set(answers["color"]) == set(world_shapes.COLORS)


def true_answer(kind: str, words: list[str], scene: scenes.Scene) -> str:
    """The answer, worked out from the question's words and the objects alone."""
    things = scene.things
    if kind == "shape":
        return next(thing.shape for thing in things if thing.color == words[4])
    if kind == "color":
        return next(thing.color for thing in things if thing.shape == words[4])
    if kind == "count":
        return str(sum(words[2].startswith(thing.shape) for thing in things))
    if kind == "exists":
        return "yes" if (words[3], words[4]) in {(thing.color, thing.shape) for thing in things} else "no"
    by_shape = {thing.shape: thing for thing in things}
    if kind == "where":
        x, y = by_shape[words[3]].center
        half = scene.size / 2
        return f"{'top' if y < half else 'bottom'} {'left' if x < half else 'right'}"
    first, relation, second = by_shape[words[2]], " ".join(words[3:-2]), by_shape[words[-1]]
    return "yes" if relation in relations(first.box, second.box) else "no"


# Files


def test_the_folder_s_formats(world_folder: Path) -> None:
    captioned = lines(world_folder / "captions.jsonl")
    assert len(captioned) == 60 and len(list((world_folder / "train").glob("*.png"))) == 60
    assert set(captioned[0]) == {"image", "caption", "tag", "description"}
    assert all((world_folder / record["image"]).is_file() for record in captioned)
    assert lines(world_folder / "prompts.jsonl") == list(held_out(SEED))
    assert lines(world_folder / "reward_prompts.jsonl") == reward_prompts(SEED)
    assert lines(world_folder / "tuning_prompts.jsonl") == training_prompts(SEED)
    assert (world_folder / "contact_sheet.png").stat().st_size > 1000
    for name in ("questions.json", "val_questions.json"):
        for entry in json.loads((world_folder / name).read_text(encoding="utf-8")):
            assert (world_folder / entry["image"]).is_file()
    with tarfile.open(world_folder / "shards" / "000000.tar") as shard:
        names = shard.getnames()
        assert names[:2] == ["000000.png", "000000.json"] and len(names) == 120
        member = shard.extractfile("000003.json")
        assert member is not None and json.loads(member.read())["caption"] == captioned[3]["caption"]


def test_a_world_is_read_back_as_it_was_made(world_folder: Path) -> None:
    validation = world.read_world(world_folder, "val")
    assert validation.images.shape == (20, 3, 32, 32)
    for index, scene in enumerate(validation.scenes):
        assert scene == scenes.make_scene(index, seed=SEED, split="val")
        assert (validation.images[index].permute(1, 2, 0).numpy() == scenes.render(scene)).all()


def test_bad_input_is_one_line(world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_world.py", "--out", str(world_folder)])
    with pytest.raises(UserError, match="not empty"):
        make_world.main()
    with pytest.raises(UserError, match=r"scenes\.jsonl"):
        world.read_world(tmp_path, "train")


def test_a_judge_is_asked_as_it_was_trained() -> None:
    """`scripts/demo/phrasing.yaml` words questions as `questions.ask` does; each kind it can make occurs there."""
    worded = read_phrasing(str(Path(make_world.__file__).with_name("phrasing.yaml")))
    assert worded.colors == world_shapes.COLORS
    trained: dict[str, set[str]] = {}
    for index in range(3000):
        for question in questions.ask(scenes.make_scene(index, seed=0), np.random.default_rng(index)):
            trained.setdefault(question.text, set()).add(question.answer)
    asked = [
        (text, one.answer)
        for _, metadata in list(all_prompts())[::3]
        for one in questions_of(ScoredPrompt(str(metadata["prompt"]), metadata), worded)
        for text in one.texts
    ]
    assert len({text for text, _ in asked}) >= 60  # all that there are
    for text, answer in asked:
        assert answer in trained[text], text
