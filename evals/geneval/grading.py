"""How much of what a prompt asks for a picture shows: GenEval's rules as a share in [0, 1], for what learns from it.

The wishes of a prompt weigh the same, and its grade is the mean over them:

- *count*, of each class that is asked for: 1 where as many are there as the rules accept, and otherwise less by 1/n
  for each that is missing or too many, n being the number asked for; at least 0. What forbids more of the class is part
  of it: so an empty picture has nothing of "three cups".
- *color*: the share of the n looked at that have it. *position*: the share of the pairs that keep the relation. What
  is missing has neither.
- *exclusion* of a class that is not asked for: 1 where fewer than the forbidden number n are there, and otherwise less
  by 1/n for each that is too many; at least 0.

What is notable here: a grade is 1 if and only if the rules accept, and a picture that grants one wish more, or comes
nearer to a number, has a higher one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evals.detectors.detection import Detection
from evals.geneval.rules import MAX_OVERLAP, Metadata, color_of, kept_for, relations

Kept = Mapping[str, Sequence[Detection]]


def grade(metadata: Metadata, detections: Iterable[Detection], max_overlap: float = MAX_OVERLAP) -> float:
    """The share of a prompt's wishes that a picture grants, in [0, 1].

    Raises:
        ValueError: as of `rules.judge`.
    """
    grades = list(_grades(metadata, kept_for(metadata, detections, max_overlap)))
    return sum(grades) / len(grades)


def _grades(metadata: Metadata, kept: Kept) -> Iterator[float]:
    wanted, unwanted = metadata.get("include", ()), metadata.get("exclude", ())
    groups = [kept.get(wish["class"], ())[: wish["count"]] for wish in wanted]
    for wish, group in zip(wanted, groups, strict=True):
        name, count = wish["class"], wish["count"]
        limits = [other["count"] - 1 for other in unwanted if other["class"] == name]
        yield _near(len(kept.get(name, ())), count, min(limits, default=None), count)
        if "color" in wish:
            yield sum(color_of(one) == wish["color"] for one in group) / count
        if "position" in wish:
            relation, target = wish["position"]
            held = sum(relation in relations(one.box, other.box) for one in group for other in groups[target])
            yield held / (count * wanted[target]["count"])
    for wish in unwanted:
        if all(other["class"] != wish["class"] for other in wanted):
            yield _near(len(kept.get(wish["class"], ())), 0, wish["count"] - 1, wish["count"])


def _near(found: int, least: int, most: int | None, unit: int) -> float:
    """1 within [least, most], and 1 / unit less for each step beside it, at least 0."""
    apart = max(least - found, 0 if most is None else found - most, 0)
    return max(0.0, 1 - apart / unit)
