"""Question-answer pairs in LLaVA's conversation JSON, balanced: each kind of question has equally many of each answer.

Kinds: shape, color, count, where, exists (yes or no), relation (yes or no). A question is asked only where it has
one answer: about a shape or colour that occurs once, about a place well away from the picture's middle lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.detectors.world_shapes import COLORS, SHAPES
from evals.geneval.phrasing import a, plural
from evals.geneval.rules import RELATIONS, relations
from scripts.demo.scenes import Scene, Thing

KINDS = ("shape", "color", "count", "where", "exists", "relation")
DEAD_ZONE = 1 / 16  # share of the side on each side of a middle line where `where` is not asked


@dataclass(frozen=True, kw_only=True)
class Question:
    kind: str
    text: str
    answer: str


def ask(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """Questions that the scene answers: at most one or two of each kind, before balancing."""
    things = scene.things
    shapes = [thing.shape for thing in things]
    colors = [thing.color for thing in things]
    single = [thing for thing in things if shapes.count(thing.shape) == 1]
    for thing in _some(single, 1, rng):
        yield Question(kind="color", text=f"What color is the {thing.shape}?", answer=thing.color)
    for thing in _some([thing for thing in things if colors.count(thing.color) == 1], 1, rng):
        yield Question(kind="shape", text=f"What shape is the {thing.color} object?", answer=thing.shape)
    shape = shapes[int(rng.integers(len(shapes)))]
    yield Question(kind="count", text=f"How many {plural(shape)} are there?", answer=str(shapes.count(shape)))
    for thing in _some(single, 2, rng):
        if corner := _corner(thing, scene.size):
            yield Question(kind="where", text=f"Where is the {thing.shape}?", answer=corner)
    yield _exists(things, rng)
    if len(single) > 1:
        x, y = _some(single, 2, rng)
        true = relations(x.box, y.box)
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        # A relation that only just fails by GenEval's thresholds makes a poor "no": ask its opposite instead.
        if relation in true or _opposite(relation) in true:
            text = f"Is the {x.shape} {relation} the {y.shape}?"
            yield Question(kind="relation", text=text, answer="yes" if relation in true else "no")


def _some(things: Sequence[Thing], count: int, rng: np.random.Generator) -> list[Thing]:
    return [things[i] for i in rng.permutation(len(things))[:count]]


def _opposite(relation: str) -> str:
    return {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]


def _corner(thing: Thing, side: int) -> str:
    """`top left` and so on, or an empty string near a middle line."""
    x, y = (center / side - 0.5 for center in thing.center)
    if min(abs(x), abs(y)) < DEAD_ZONE:
        return ""
    return f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"


def _exists(things: Sequence[Thing], rng: np.random.Generator) -> Question:
    """Half of the time a true (colour, shape); otherwise one that differs in just one of the two."""
    present = {(thing.color, thing.shape) for thing in things}
    color, shape = sorted(present)[int(rng.integers(len(present)))]
    if rng.random() < 0.5:
        wrong = [(c, shape) for c in COLORS] if rng.random() < 0.5 else [(color, s) for s in SHAPES]
        wrong = [pair for pair in wrong if pair not in present]
        if wrong:
            color, shape = wrong[int(rng.integers(len(wrong)))]
    answer = "yes" if (color, shape) in present else "no"
    return Question(kind="exists", text=f"Is there {a(f'{color} {shape}')}?", answer=answer)


def conversations(
    images: Sequence[str], scenes: Sequence[Scene], *, seed: int, rounds: int = 1, turns: int | None = None
) -> list[dict[str, Any]]:
    """LLaVA's list of conversations, one per image that has a question left after balancing.

    `images` are the paths to write, one per scene. Each scene is asked `rounds` times; what was asked before is left
    out, and of what is left at most `turns` are kept. Besides LLaVA's keys each entry has `kinds`, one per turn.
    """
    rng = np.random.default_rng([seed, len(scenes)])
    pool: dict[str, dict[str, list[tuple[int, Question]]]] = defaultdict(lambda: defaultdict(list))
    for index, scene in enumerate(scenes):
        found = (question for _ in range(rounds) for question in ask(scene, rng))
        for question in {question.text: question for question in found}.values():
            pool[question.kind][question.answer].append((index, question))
    chosen: dict[int, list[Question]] = defaultdict(list)
    for kind in KINDS:
        answers = pool[kind]
        fewest = min((len(asked) for asked in answers.values()), default=0)
        for answer in sorted(answers):
            for i in rng.permutation(len(answers[answer]))[:fewest]:
                index, question = answers[answer][i]
                chosen[index].append(question)
    return [_conversation(images[index], chosen[index], rng, turns) for index in sorted(chosen)]


def _conversation(
    image: str, questions: list[Question], rng: np.random.Generator, most: int | None
) -> dict[str, Any]:
    questions = [questions[i] for i in rng.permutation(len(questions))[:most]]
    turns = []
    for number, question in enumerate(questions):
        turns.append({"from": "human", "value": ("" if number else "<image>\n") + question.text})
        turns.append({"from": "gpt", "value": question.answer})
    kinds = [question.kind for question in questions]
    return {"id": image.removesuffix(".png"), "image": image, "conversations": turns, "kinds": kinds}
