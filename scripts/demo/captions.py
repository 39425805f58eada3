"""Captions in GenEval's own phrasing, with GenEval's metadata, for the scenes of the miniature world.

What is notable here: a caption and its metadata are made together (evals/geneval/phrasing.py), `holds` judges the
metadata by GenEval's rules (evals/geneval/rules.py) on the ground truth, and a stratified share of all possible prompts
is held out: no training caption repeats one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import permutations

import numpy as np

from evals.detectors.world_shapes import COLORS, SHAPES
from evals.geneval.phrasing import a, color_attr, colors, counting, position, single_object, two_object
from evals.geneval.rules import RELATIONS, TAGS, Metadata, relations
from scripts.demo.scenes import SPLITS, Scene, Thing

NUMBERS = (2, 3, 4)

# Prompts held out in each group. Groups spread them evenly over numbers, relations and first shapes.
HELD_OUT_PER_GROUP = {
    "single_object": 2,  # one group: 2 of 4 prompts
    "two_object": 1,  # of 3, for each first shape
    "counting": 1,  # of 4, for each number
    "colors": 2,  # of 10, for each shape
    "position": 1,  # of 3, for each relation and first shape
    "color_attr": 6,  # of 270, for each first shape
}


def holds(metadata: Metadata, things: Sequence[Thing]) -> bool:
    """Whether GenEval's rules accept a picture of exactly `things`, whichever of a class is found first.

    GenEval looks at the `count` most certain detections of a class. Ground truth has no scores, so every object
    of the class must have the colour and keep the relation: what holds here, holds for any order.
    """
    groups: list[list[Thing]] = []
    for wanted in metadata["include"]:
        group = [thing for thing in things if thing.shape == wanted["class"]]
        if len(group) < wanted["count"]:
            return False
        if "color" in wanted and any(thing.color != wanted["color"] for thing in group):
            return False
        if "position" in wanted:
            relation, target = wanted["position"]
            if not all(relation in relations(x.box, y.box) for x in group for y in groups[target]):
                return False
        groups.append(group)
    return all(
        sum(thing.shape == unwanted["class"] for thing in things) < unwanted["count"]
        for unwanted in metadata.get("exclude", ())
    )


def all_prompts() -> Iterator[tuple[str, Metadata]]:
    """Every prompt the world can ask, with the group it is held out from."""
    for shape in SHAPES:
        yield "single_object", single_object(shape)
        yield from ((f"counting {count}", counting(shape, count)) for count in NUMBERS)
        yield from ((f"colors {shape}", colors(shape, color)) for color in COLORS)
    for first, second in permutations(SHAPES, 2):
        yield f"two_object {first}", two_object(first, second)
        yield from (
            (f"position {relation} {first}", position(first, relation, second)) for relation in RELATIONS
        )
        for pair in permutations(COLORS, 2):
            yield f"color_attr {first}", color_attr((first, pair[0]), (second, pair[1]))


@cache
def held_out(seed: int) -> tuple[Metadata, ...]:
    """The prompts of `seed` that no training caption may repeat, in the order of `TAGS`."""
    groups: dict[str, list[Metadata]] = defaultdict(list)
    for group, metadata in all_prompts():
        groups[group].append(metadata)
    rng = np.random.default_rng([seed, len(SPLITS)])
    chosen = [
        prompts[i]
        for prompts in groups.values()
        for i in rng.permutation(len(prompts))[: HELD_OUT_PER_GROUP[prompts[0]["tag"]]]
    ]
    return tuple(sorted(chosen, key=lambda metadata: TAGS.index(metadata["tag"])))


def reward_prompts(seed: int) -> list[Metadata]:
    """Every prompt that is not held out, each once: what post-training may draw."""
    barred = {metadata["prompt"] for metadata in held_out(seed)}
    return [metadata for _, metadata in all_prompts() if metadata["prompt"] not in barred]


def training_prompts(seed: int) -> list[Metadata]:
    """As many prompts as are held out, none of them, in like numbers of each tag as far as there are so many."""
    by_tag: dict[str, list[Metadata]] = defaultdict(list)
    for metadata in reward_prompts(seed):
        by_tag[metadata["tag"]].append(metadata)
    each = len(held_out(seed)) // len(TAGS)
    rng = np.random.default_rng([seed, len(SPLITS) + 1])
    return [by_tag[tag][i] for tag in TAGS for i in sorted(rng.permutation(len(by_tag[tag]))[:each])]


def captions(scene: Scene) -> list[Metadata]:
    """Every GenEval prompt that is true of the scene and names all that is in it; none for mixed scenes."""
    things, (first, *rest) = scene.things, scene.things
    if scene.kind == "single":
        return [single_object(first.shape), colors(first.shape, first.color)]
    if scene.kind == "same":
        return [counting(first.shape, len(things))]
    if scene.kind != "pair":
        return []
    found = []
    for x, y in ((first, rest[0]), (rest[0], first)):
        found += [two_object(x.shape, y.shape), color_attr((x.shape, x.color), (y.shape, y.color))]
        found += [position(x.shape, relation, y.shape) for relation in sorted(relations(x.box, y.box))]
    return found


def choose_caption(found: Iterable[Metadata], rng: np.random.Generator) -> Metadata | None:
    """One caption: a tag drawn evenly among those found, then a caption of that tag; None if none was found."""
    by_tag: dict[str, list[Metadata]] = defaultdict(list)
    for metadata in found:
        by_tag[metadata["tag"]].append(metadata)
    if not by_tag:
        return None
    options = by_tag[sorted(by_tag)[int(rng.integers(len(by_tag)))]]
    return options[int(rng.integers(len(options)))]


def place(thing: Thing, side: int) -> str:
    """Where an object is, in words: one of nine fields of the picture."""
    column, row = (min(2, int(3 * center / side)) for center in thing.center)
    words = " ".join(filter(None, (("top", "", "bottom")[row], ("left", "", "right")[column])))
    return f"at the {words}" if words else "in the center"


def describe_one(thing: Thing, side: int) -> str:
    """An object's size, colour, shape and place in a picture of `side` px."""
    return f"{a(f'{_size_word(thing, side)}{thing.color} {thing.shape}')} {place(thing, side)}"


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """All there is to say: every object's size, colour, shape and place, in random order."""
    parts = [describe_one(thing, scene.size) for thing in scene.things]
    parts = [parts[i] for i in rng.permutation(len(parts))]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"a photo of {listed}"


def _size_word(thing: Thing, side: int) -> str:
    share = thing.size / side
    return "large " if share > 0.36 else "small " if share < 0.3 else ""
