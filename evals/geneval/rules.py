"""GenEval's rules: from detections to a verdict, for any detector.

What is notable here: nothing but the rules, to the letter of the original's own code (djghosh13/geneval,
`evaluation/evaluate_images.py`, MIT), odd ones included; no model, no file. A prompt's metadata is the original's:

    {"tag": "position", "prompt": "a photo of a dog right of a cat",
     "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}]}

- Kept are detections that score more than 0.3, for counting more than 0.9; of those, each class' best 16.
- *include* looks at the `count` best of a class; fewer fail. More do not.
- *color*: each of them must have it. *position*: each must have the relation to each of the earlier group's; it is not
  looked at where the colour failed, and fails where that group failed.
- *exclude* fails where `count` or more were kept. Only counting has it, with n + 1: so exactly n.
- Equal scores: the later detection is the better one (an ascending stable sort, reversed). Where scores are distinct,
  the order of detections changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from evals.detectors.detection import Box, Detection

Metadata = Mapping[str, Any]

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MAX_OBJECTS = 16
MAX_OVERLAP = 1.0  # 1: none is suppressed
POSITION_THRESHOLD = 0.1
RELATION_SHARE = 0.5


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its prompt asks for; every reason why not; and what was looked at.

    `kept`: the detections of each class that count, best first.
    """

    correct: bool
    reasons: tuple[str, ...]
    kept: Mapping[str, tuple[Detection, ...]]


def judge(metadata: Metadata, detections: Iterable[Detection], max_overlap: float = MAX_OVERLAP) -> Verdict:
    """Apply the rules to one picture.

    Raises:
        ValueError: metadata that states no rules, or a colour is asked for that no detection names.
    """
    kept = kept_for(metadata, detections, max_overlap)
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []  # what each wish found; None where it failed
    for wish in metadata.get("include", ()):
        group = kept.get(wish["class"], ())[: wish["count"]]
        problems = _problems(wish, group, groups)
        groups.append(None if problems else group)
        reasons += problems
    for wish in metadata.get("exclude", ()):
        found = len(kept.get(wish["class"], ()))
        if found >= wish["count"]:
            reasons.append(f"expected {wish['class']}<{wish['count']}, found {found}")
    return Verdict(correct=not reasons, reasons=tuple(reasons), kept=kept)


def kept_for(
    metadata: Metadata, detections: Iterable[Detection], max_overlap: float = MAX_OVERLAP
) -> dict[str, tuple[Detection, ...]]:
    """`keep` by the threshold of a prompt's tag; raises `ValueError` for metadata that states no rules."""
    return keep(detections, threshold_of(metadata), max_overlap)


def threshold_of(metadata: Metadata) -> float:
    """The score over which a detection counts; raises `ValueError` for metadata that states no rules."""
    _check(metadata)
    return COUNTING_THRESHOLD if metadata["tag"] == "counting" else THRESHOLD


def keep(
    detections: Iterable[Detection], threshold: float, max_overlap: float = MAX_OVERLAP
) -> dict[str, tuple[Detection, ...]]:
    """What counts, by class, best first: over the threshold, at most `MAX_OBJECTS`, then without those that overlap a
    better one by `max_overlap` (an IoU) or more, if that is under 1."""
    classes: dict[str, list[Detection]] = {}
    for detection in detections:
        classes.setdefault(detection.name, []).append(detection)
    kept: dict[str, tuple[Detection, ...]] = {}
    for name, found in classes.items():
        order = np.argsort([one.score for one in found], kind="stable")[::-1]
        waiting = [found[i] for i in order if found[i].score > threshold][:MAX_OBJECTS]
        chosen: list[Detection] = []
        while waiting:
            best, *waiting = waiting
            chosen.append(best)
            if max_overlap < 1:
                waiting = [one for one in waiting if overlap(best.box, one.box) < max_overlap]
        if chosen:
            kept[name] = tuple(chosen)
    return kept


def relations(first: Box, second: Box) -> set[str]:
    """Where `first` is as seen from `second`: at most two of `RELATIONS`, perhaps none.

    The distance of the centres counts beyond a tenth of both boxes' extents, along each axis; a relation holds where
    this is more than half of the whole distance.
    """
    a, b = np.asarray(first, np.float64).reshape(2, 2), np.asarray(second, np.float64).reshape(2, 2)
    offset = a.mean(0) - b.mean(0)
    extent = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    beyond = np.maximum(np.abs(offset) - POSITION_THRESHOLD * extent, 0) * np.sign(offset)
    if np.all(np.abs(beyond) < 1e-3):
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    held = (dx < -RELATION_SHARE, dx > RELATION_SHARE, dy < -RELATION_SHARE, dy > RELATION_SHARE)
    return {relation for relation, true in zip(RELATIONS, held, strict=True) if true}


def overlap(first: Box, second: Box) -> float:
    """Intersection over union, with one pixel added to each side, as the original counts."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)

    shared = area(*(max(p, q) for p, q in zip(first[:2], second[:2], strict=True)),
                  *(min(p, q) for p, q in zip(first[2:], second[2:], strict=True)))  # fmt: skip
    union = area(*first) + area(*second) - shared
    return shared / union if union else 0.0


def tag_scores(
    prompts: Sequence[Metadata],
    verdicts: Mapping[tuple[int, int], bool],
    images_per_prompt: int,
    partial: bool = False,
) -> dict[str, float]:
    """Scores in [0, 1]: `overall`, then each tag in the order of `TAGS`.

    A tag's score is the mean over its images, `overall` the mean over the tags, each weighing the same.

    Args:
        prompts: the whole set.
        verdicts: (index of the prompt, index of the image) -> correct.
        images_per_prompt: how many each prompt must have.
        partial: some of the six tags may be without a prompt; `overall` is then no GenEval score.

    Raises:
        UserError: an image is missing, or there is one of no prompt; no prompts of a tag; an unknown tag.
    """
    expected = {(prompt, image) for prompt in range(len(prompts)) for image in range(images_per_prompt)}
    for problem, found in (
        ("is missing", expected - set(verdicts)),
        ("belongs to no prompt", set(verdicts) - expected),
    ):
        if found:
            prompt, image = min(found)
            raise UserError(f"GenEval: image {image} of prompt {prompt} {problem} ({len(found)} in all)")
    correct: dict[str, list[bool]] = {tag: [] for tag in TAGS}
    for (prompt, _), verdict in verdicts.items():
        tag = prompts[prompt].get("tag")
        if tag not in correct:
            raise UserError(
                f"GenEval: prompt {prompt}: tag: expected one of {', '.join(TAGS)}, found {tag!r}"
            )
        correct[tag].append(bool(verdict))
    absent = [tag for tag, found in correct.items() if not found]
    if len(absent) == len(TAGS) or (absent and not partial):
        raise UserError(f"GenEval: no prompt of tag {absent[0]}: the overall score needs all six")
    scores = {tag: sum(found) / len(found) for tag, found in correct.items() if found}
    return {"overall": sum(scores.values()) / len(scores), **scores}


def _problems(
    wish: Metadata, group: Sequence[Detection], earlier: Sequence[Sequence[Detection] | None]
) -> list[str]:
    """Why the best detections of a class are not what the wish asks for: at most one reason, the first."""
    name, count = wish["class"], wish["count"]
    if len(group) < count:
        return [f"expected {name}>={count}, found {len(group)}"]
    if "color" in wish:
        colors = [color_of(one) for one in group]
        if colors.count(wish["color"]) < count:
            others = ", ".join(f"{colors.count(color)} {color}" for color in sorted(set(colors)))
            return [f"expected {wish['color']} {name}>={count}, found {others}"]
    if "position" in wish:
        relation, target = wish["position"]
        targets = earlier[target]
        if targets is None:
            return [f"no target for {name} to be {relation}"]
        for one in group:
            for other in targets:
                true = relations(one.box, other.box)
                if relation not in true:
                    seen = " and ".join(sorted(true)) or "no relation to"
                    return [f"expected {name} {relation} target, found {seen} target"]
    return []


def color_of(detection: Detection) -> str:
    """The name of its colour, found where it is not known yet; raises `ValueError` where there is none."""
    color = detection.color
    if color is None:
        raise ValueError(
            f"a prompt asks for the colour of a {detection.name}, which its detection does not name"
        )
    return color if isinstance(color, str) else color()


def _check(metadata: Metadata) -> None:
    """Raises `ValueError` for what no rule covers: it would pass, or fail, in silence."""
    if metadata.get("tag") not in TAGS:
        raise ValueError(f"tag: expected one of {', '.join(TAGS)}, found {metadata.get('tag')!r}")
    wishes = (*metadata.get("include", ()), *metadata.get("exclude", ()))
    if not wishes:
        raise ValueError("include, exclude: found neither")
    for wish in wishes:
        if (
            not isinstance(wish.get("class"), str)
            or not isinstance(wish.get("count"), int)
            or wish["count"] < 1
        ):
            raise ValueError(
                f"include, exclude: expected a class and a count of 1 or more, found {dict(wish)}"
            )
    for index, wish in enumerate(metadata.get("include", ())):
        relation, target = wish.get("position", (RELATIONS[0], -1))
        if relation not in RELATIONS or not -1 <= target < index or (target < 0 and "position" in wish):
            raise ValueError(f"position: expected a relation and an earlier wish, found {wish['position']}")
