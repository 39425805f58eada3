"""GenEval's rules as a share: 1 if and only if they accept, and higher the nearer a picture comes."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from evals.detectors.detection import Detection
from evals.geneval.grading import grade
from evals.geneval.rules import judge

CLASSES, COLORS = ("cup", "dog", "cat"), ("red", "blue")


def thing(
    name: str, place: tuple[float, float] = (0, 0), color: str = "red", score: float = 0.95
) -> Detection:
    x, y = place
    return Detection(name=name, score=np.float32(score), box=(x, y, x + 8, y + 8), color=color)  # type: ignore[arg-type]


def prompt(tag: str, *include: dict[str, Any], exclude: Any = ()) -> dict[str, Any]:
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "x"}


def three_cups() -> dict[str, Any]:
    return prompt("counting", {"class": "cup", "count": 3}, exclude=[{"class": "cup", "count": 4}])


def test_a_count_falls_with_the_distance_on_both_sides() -> None:
    grades = [grade(three_cups(), [thing("cup")] * number) for number in range(8)]
    assert grades == pytest.approx([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0])
    none = prompt("single_object", {"class": "dog", "count": 1}, exclude=[{"class": "cup", "count": 2}])
    assert [grade(none, [thing("dog"), *[thing("cup")] * number]) for number in range(5)] == [
        1,
        1,
        0.75,
        0.5,
        0.5,
    ]


def test_what_is_nearly_told_is_nearly_worth_it() -> None:
    """Counting wants scores over 0.9, all else over 0.3; extras that are not sure do no harm, as by the rules."""
    grades = [grade(three_cups(), [thing("cup", score=score)] * 3) for score in (0.0, 0.3, 0.6, 0.9, 0.91)]
    assert grades == pytest.approx([0, 1 / 3, 2 / 3, 1, 1], abs=2e-3)
    assert grades[3] < grades[4] == 1
    assert grade(three_cups(), [*[thing("cup")] * 3, thing("cup", score=0.8)]) == 1
    red = prompt("colors", {"class": "cup", "count": 1, "color": "red"})
    assert grade(red, [thing("cup", score=0.15)]) == pytest.approx(0.5, abs=2e-3)
    beside = prompt(
        "position", {"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["below", 0]}
    )
    halves = [thing("cat", score=0.15), thing("dog", (0, 30), score=0.15)]
    assert grade(beside, halves) == pytest.approx((0.5 + 0.5 + 0.25) / 3, abs=2e-3)


def test_each_of_count_color_and_position_is_a_wish() -> None:
    wishes = (
        {"class": "cat", "count": 1, "color": "red"},
        {"class": "dog", "count": 1, "color": "blue", "position": ["right of", 0]},
    )
    asked = prompt("position", *wishes)
    cat = thing("cat", (0, 20))
    assert grade(asked, []) == 0
    assert grade(asked, [cat]) == pytest.approx(2 / 5)
    assert grade(asked, [cat, thing("dog", (0, 0), "red")]) == pytest.approx(3 / 5)
    assert grade(asked, [cat, thing("dog", (40, 20), "red")]) == pytest.approx(4 / 5)
    assert grade(asked, [cat, thing("dog", (40, 20), "blue")]) == 1
    assert grade(asked, [thing("cat", (0, 20), "blue"), thing("dog", (40, 20), "blue")]) == pytest.approx(
        4 / 5
    )
    pair = prompt("colors", {"class": "cup", "count": 2, "color": "red"})
    assert grade(pair, [thing("cup"), thing("cup", color="blue")]) == pytest.approx(0.75)
    assert grade(pair, [thing("cup")]) == pytest.approx(0.5)


def some_prompt(rng: np.random.Generator) -> dict[str, Any]:
    include: list[dict[str, Any]] = []
    for place in range(int(rng.integers(1, 4))):
        wish: dict[str, Any] = {"class": str(rng.choice(CLASSES)), "count": int(rng.integers(1, 4))}
        if rng.random() < 0.5:
            wish["color"] = str(rng.choice(COLORS))
        if place and rng.random() < 0.5:
            wish["position"] = [str(rng.choice(["left of", "below"])), int(rng.integers(place))]
        include.append(wish)
    exclude = [
        {"class": str(name), "count": int(rng.integers(1, 5))} for name in CLASSES if rng.random() < 0.3
    ]
    return prompt(str(rng.choice(["counting", "position"])), *include, exclude=exclude)


def test_a_grade_is_one_if_and_only_if_the_rules_accept() -> None:
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(3000):
        asked = some_prompt(rng)
        found = [
            thing(
                str(rng.choice(CLASSES)),
                tuple(rng.uniform(0, 60, 2)),
                str(rng.choice(COLORS)),
                rng.uniform(0.2, 1),
            )  # type: ignore[arg-type]
            for _ in range(int(rng.integers(0, 7)))
        ]
        graded, verdict = grade(asked, found), judge(asked, found)
        assert 0 <= graded <= 1 and (graded == 1) == verdict.correct, (asked, found)
        accepted += verdict.correct
    assert accepted > 50


def test_what_grants_more_wishes_has_the_higher_grade() -> None:
    """Every subset of a picture that is right scores less, and less than any subset that holds it."""
    wishes = (
        {"class": "cat", "count": 1},
        {"class": "dog", "count": 2, "color": "blue", "position": ["below", 0]},
    )
    asked = prompt("position", *wishes)
    whole = [thing("cat"), thing("dog", (0, 30), "blue"), thing("dog", (4, 30), "blue")]
    grades = {part: grade(asked, part) for size in range(4) for part in combinations(whole, size)}
    for few, more in ((a, b) for a in grades for b in grades if set(a) < set(b)):
        assert grades[few] < grades[more]


def test_metadata_without_rules_is_refused() -> None:
    with pytest.raises(ValueError, match="tag: expected one of"):
        grade({"prompt": "x"}, [])
