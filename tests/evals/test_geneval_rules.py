"""Every rule and edge of GenEval, by hand; and that the order of detections does not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from evals.detectors.detection import Detection
from evals.geneval.rules import TAGS, judge, keep, overlap, relations, tag_scores

LEFT, RIGHT, TOP, BOTTOM = (0, 40, 20, 60), (80, 40, 100, 60), (40, 0, 60, 20), (40, 80, 60, 100)
MIDDLE = (40, 40, 60, 60)


def found(name: str, score: float = 0.95, box: Any = MIDDLE, color: Any = None) -> Detection:
    return Detection(name=name, score=score, box=box, color=color)


def wants(tag: str, *include: dict[str, Any], exclude: Any = ()) -> dict[str, Any]:
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "a photo"}


def one(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


SINGLE = wants("single_object", one("dog"))
COUNT_2 = wants("counting", one("dog", 2), exclude=[one("dog", 3)])
RED = wants("colors", one("dog", color="red"))
RIGHT_OF = wants("position", one("cat"), one("dog", position=["right of", 0]))

# metadata, detections, the reasons why it fails: none where it passes
GOLDEN: dict[str, tuple[dict[str, Any], list[Detection], list[str]]] = {
    # include
    "found": (SINGLE, [found("dog")], []),
    "nothing found": (SINGLE, [], ["expected dog>=1, found 0"]),
    "another class": (SINGLE, [found("cat")], ["expected dog>=1, found 0"]),
    "more than asked": (SINGLE, [found("dog")] * 5, []),
    "two classes": (wants("two_object", one("dog"), one("cat")), [found("cat"), found("dog")], []),
    "both missing": (
        wants("two_object", one("dog"), one("cat")),
        [],
        ["expected dog>=1, found 0", "expected cat>=1, found 0"],
    ),
    # thresholds: strict, and in the detector's own precision
    "just over 0.3": (SINGLE, [found("dog", 0.3001)], []),
    "exactly 0.3": (SINGLE, [found("dog", 0.3)], ["expected dog>=1, found 0"]),
    "exactly 0.3 in float32": (SINGLE, [found("dog", np.float32(0.3))], ["expected dog>=1, found 0"]),
    "exactly 0.9, counting": (COUNT_2, [found("dog", 0.9), found("dog")], ["expected dog>=2, found 1"]),
    "exactly 0.9 in float32": (COUNT_2, [found("dog", np.float32(0.9)), found("dog")], ["expected dog>=2, found 1"]),
    "0.9 is enough elsewhere": (SINGLE, [found("dog", 0.9)], []),
    # counting: exactly n
    "exactly two": (COUNT_2, [found("dog")] * 2, []),
    "one of two": (COUNT_2, [found("dog")], ["expected dog>=2, found 1"]),
    "three of two": (COUNT_2, [found("dog")] * 3, ["expected dog<3, found 3"]),
    "the third is unsure": (COUNT_2, [found("dog"), found("dog", 0.89), found("dog")], []),
    "both rules at once": (
        wants("counting", one("dog", 2), exclude=[one("cat", 1)]),
        [found("cat")],
        ["expected dog>=2, found 0", "expected cat<1, found 1"],
    ),
    # at most 16 of a class: what comes after is not seen, not even by exclude
    "sixteen of twenty": (
        wants("counting", one("dog", 16), exclude=[one("dog", 17)]),
        [found("dog")] * 20,
        [],
    ),
    "seventeen cannot be had": (
        wants("counting", one("dog", 17), exclude=[one("dog", 18)]),
        [found("dog")] * 20,
        ["expected dog>=17, found 16"],
    ),
    # colour: of the best ones, all
    "the colour": (RED, [found("dog", color="red")], []),
    "another colour": (RED, [found("dog", color="blue")], ["expected red dog>=1, found 1 blue"]),
    "the best one's colour counts": (RED, [found("dog", 0.5, color="red"), found("dog", 0.6, color="blue")],
                                     ["expected red dog>=1, found 1 blue"]),
    "a worse one of another colour": (RED, [found("dog", 0.6, color="red"), found("dog", 0.5, color="blue")], []),
    "equal scores: the later is better": (RED, [found("dog", color="blue"), found("dog", color="red")], []),
    "equal scores, turned": (
        RED,
        [found("dog", color="red"), found("dog", color="blue")],
        ["expected red dog>=1, found 1 blue"],
    ),
    "colours of two": (
        wants("color_attr", one("dog", 2, color="red")),
        [found("dog", color="red"), found("dog", color=lambda: "blue")],
        ["expected red dog>=2, found 1 blue, 1 red"],
    ),
    "two objects, colours swapped": (
        wants("color_attr", one("dog", color="red"), one("cat", color="blue")),
        [found("dog", color="blue"), found("cat", color="red")],
        ["expected red dog>=1, found 1 blue", "expected blue cat>=1, found 1 red"],
    ),
    # position: every pair; after the colour; needs its target
    "right of": (RIGHT_OF, [found("cat", box=LEFT), found("dog", box=RIGHT)], []),
    "left of": (
        RIGHT_OF,
        [found("cat", box=RIGHT), found("dog", box=LEFT)],
        ["expected dog right of target, found left of target"],
    ),
    "on one another": (
        RIGHT_OF,
        [found("cat"), found("dog")],
        ["expected dog right of target, found no relation to target"],
    ),
    "no target": (
        RIGHT_OF,
        [found("dog", box=RIGHT)],
        ["expected cat>=1, found 0", "no target for dog to be right of"],
    ),
    "a target of the wrong colour": (
        wants("position", one("cat", color="red"), one("dog", position=["right of", 0])),
        [found("cat", box=LEFT, color="blue"), found("dog", box=RIGHT)],
        ["expected red cat>=1, found 1 blue", "no target for dog to be right of"],
    ),
    "the colour fails before the position": (
        wants("position", one("cat"), one("dog", color="red", position=["right of", 0])),
        [found("cat", box=RIGHT), found("dog", box=LEFT, color="blue")],
        ["expected red dog>=1, found 1 blue"],
    ),
    "one pair of many fails": (
        wants("position", one("cat", 2), one("dog", 2, position=["right of", 0])),
        [found("cat", box=LEFT), found("cat", box=RIGHT), found("dog", box=MIDDLE), found("dog", box=MIDDLE)],
        ["expected dog right of target, found left of target"],
    ),
    "only the best are compared": (
        RIGHT_OF,
        [found("cat", 0.9, LEFT), found("cat", 0.5, RIGHT), found("dog", 0.9), found("dog", 0.5, LEFT)],
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: str) -> None:
    metadata, detections, reasons = GOLDEN[case]
    verdict = judge(metadata, detections)
    assert list(verdict.reasons) == reasons and verdict.correct == (not reasons)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (LEFT, MIDDLE, {"left of"}),
        (RIGHT, MIDDLE, {"right of"}),
        (TOP, MIDDLE, {"above"}),
        (BOTTOM, MIDDLE, {"below"}),
        ((0, 0, 20, 20), (80, 80, 100, 100), {"left of", "above"}),
        (MIDDLE, MIDDLE, set()),
        # 4 px apart, a tenth of both extents together is 4: nothing is left; of one pixel more, 1 of 5 is
        ((4, 0, 24, 20), (0, 0, 20, 20), set()),
        ((5, 0, 25, 20), (0, 0, 20, 20), set()),
        # exactly half of the distance is not more than half
        ((8, 0, 28, 20), (0, 0, 20, 20), set()),
        ((8.01, 0, 28.01, 20), (0, 0, 20, 20), {"right of"}),
        ((20, 20, 0, 0), (80, 0, 100, 20), {"left of"}),  # corners the wrong way round still have an extent
        ((0, 0, 0, 0), (1, 0, 1, 0), {"left of"}),  # boxes without an extent
        ((0, 0, 0, 0), (0.0009, 0, 0.0009, 0), set()),
    ],
)
def test_relations(first: Any, second: Any, expected: set[str]) -> None:
    assert relations(first, second) == expected


def test_overlap_counts_a_pixel_more() -> None:
    assert overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert overlap((0, 0, 9, 9), (0, 0, 9, 4)) == 0.5
    assert overlap((0, 0, 9, 9), (10, 0, 19, 9)) == 0  # neighbours, without a common pixel
    assert overlap((0, 0, 9, 9), (9, 9, 18, 18)) == 1 / 199
    assert overlap((5, 5, 4, 4), (5, 5, 4, 4)) == 0  # no area at all


def test_suppression_is_off_unless_asked_for() -> None:
    boxes = [(0, 0, 9, 9), (0, 0, 9, 9), (0, 0, 9, 4), (0, 0, 9, 3)]
    dogs = [found("dog", 0.9 - index / 10, box) for index, box in enumerate(boxes)]
    assert len(keep(dogs, 0.3)["dog"]) == 4
    assert keep(dogs, 0.3, max_overlap=0.5)["dog"] == (dogs[0], dogs[3])  # exactly 0.5 is suppressed


def test_colours_are_found_only_where_asked_for() -> None:
    def never() -> str:
        raise AssertionError

    asked: list[str] = []

    def red() -> str:
        asked.append("red")
        return "red"

    assert judge(SINGLE, [found("dog", color=never)]).correct
    assert judge(
        RED, [found("dog", 0.9, color=red), found("dog", 0.8, color=never), found("cat", color=never)]
    ).correct
    assert asked == ["red"]
    with pytest.raises(ValueError, match="colour of a dog"):
        judge(RED, [found("dog")])


NAMES, PALETTE = ("dog", "cat", "car"), ("red", "blue")
BOX = st.tuples(*[st.integers(0, 100)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[dict[str, Any], list[Detection], list[Detection]]:
    """Metadata, detections of distinct scores, and the same detections in another order."""
    scores = draw(st.lists(st.floats(0, 1), unique=True, max_size=40))
    detections = [
        found(draw(st.sampled_from(NAMES)), score, draw(BOX), draw(st.sampled_from(PALETTE)))
        for score in scores
    ]
    include = []
    for index in range(draw(st.integers(1, 3))):
        wish = one(draw(st.sampled_from(NAMES)), draw(st.integers(1, 3)))
        if draw(st.booleans()):
            wish["color"] = draw(st.sampled_from(PALETTE))
        if index and draw(st.booleans()):
            wish["position"] = [draw(st.sampled_from(["left of", "above"])), draw(st.integers(0, index - 1))]
        include.append(wish)
    exclude = draw(st.lists(st.builds(one, st.sampled_from(NAMES), st.integers(1, 4)), max_size=1))
    metadata = wants(draw(st.sampled_from(TAGS)), *include, exclude=exclude)
    return metadata, detections, draw(st.permutations(detections))


@settings(max_examples=300, deadline=None)
@given(pictures())
def test_the_order_of_detections_does_not_matter(
    picture: tuple[dict[str, Any], list[Detection], list[Detection]],
) -> None:
    metadata, detections, shuffled = picture
    first, second = judge(metadata, detections), judge(metadata, shuffled)
    assert (first.correct, first.reasons) == (second.correct, second.reasons)
    assert first.kept == second.kept


@settings(max_examples=200, deadline=None)
@given(pictures())
def test_what_is_kept(picture: tuple[dict[str, Any], list[Detection], list[Detection]]) -> None:
    metadata, detections, _ = picture
    threshold = 0.9 if metadata["tag"] == "counting" else 0.3
    for name, kept in judge(metadata, detections).kept.items():
        over = sorted((d.score for d in detections if d.name == name and d.score > threshold), reverse=True)
        assert [d.score for d in kept] == over[:16] and kept


# ---- scores ----------------------------------------------------------------------------------------------

SET = [wants(tag, one("dog")) for tag in TAGS] + [wants("colors", one("cat"))]


def verdicts(correct: set[tuple[int, int]], images: int = 2) -> dict[tuple[int, int], bool]:
    return {(p, i): (p, i) in correct for p in range(len(SET)) for i in range(images)}


def test_each_tag_weighs_the_same() -> None:
    scores = tag_scores(SET, verdicts({(0, 0), (0, 1), (3, 0), (6, 0), (6, 1)}), 2)
    assert list(scores) == ["overall", *TAGS]
    assert scores["single_object"] == 1 and scores["colors"] == 0.75 and scores["counting"] == 0
    assert scores["overall"] == pytest.approx(1.75 / 6)


def test_a_missing_image_is_an_error() -> None:
    found = verdicts(set())
    del found[2, 1]
    with pytest.raises(UserError, match="image 1 of prompt 2 is missing"):
        tag_scores(SET, found, 2)
    with pytest.raises(UserError, match="image 2 of prompt 0 is missing \\(7 in all\\)"):
        tag_scores(SET, verdicts(set()), 3)
    with pytest.raises(UserError, match="image 1 of prompt 0 belongs to no prompt"):
        tag_scores(SET, verdicts(set()), 1)
    with pytest.raises(UserError, match="no prompt of tag two_object"):
        tag_scores(SET[:1], {(0, 0): True}, 1)
    assert tag_scores(SET[:1], {(0, 0): True}, 1, partial=True) == {"overall": 1, "single_object": 1}
    with pytest.raises(UserError, match="tag: expected one of"):
        tag_scores([{"tag": "colour"}], {(0, 0): True}, 1)
    with pytest.raises(UserError, match="no prompt"):
        tag_scores([], {}, 4, partial=True)


@pytest.mark.parametrize(
    "metadata",
    [
        {"include": [one("dog")]},
        {"tag": "colour", "include": [one("dog")]},
        {"tag": "counting"},
        wants("counting", {"class": "dog"}),
        wants("counting", one("dog", 0)),
        wants("position", one("dog", position=["right of", 0])),
        wants("position", one("cat"), one("dog", position=["right of", -1])),
        wants("position", one("cat"), one("dog", position=["near", 0])),
    ],
    ids=str,
)
def test_metadata_without_a_meaning_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*found|found neither"):
        judge(metadata, [])


def test_the_official_prompts_are_understood(photographs: Path) -> None:
    path = photographs / "geneval" / "evaluation_metadata.jsonl"
    if not path.is_file():
        pytest.skip("GenEval's prompts are not among the test data")
    prompts = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(prompts) == 553
    counts = {tag: sum(prompt["tag"] == tag for prompt in prompts) for tag in TAGS}
    assert list(counts.values()) == [80, 99, 80, 94, 100, 100]
    for metadata in prompts:
        assert not judge(metadata, []).correct
        boxes = {"left of": LEFT, "right of": RIGHT, "above": TOP, "below": BOTTOM}
        perfect = [
            found(w["class"], 0.95, boxes[w["position"][0]] if "position" in w else MIDDLE, w.get("color"))
            for w in metadata["include"]
            for _ in range(w["count"])
        ]
        assert judge(metadata, perfect).correct, metadata
