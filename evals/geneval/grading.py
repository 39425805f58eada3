"""How much of what a prompt asks for a picture shows: GenEval's rules as a share in [0, 1], for what learns from it.

The wishes of a prompt weigh the same, and its grade is the mean over them:

- *count*, of each class that is asked for: 1 where as many are there as the rules accept, and otherwise less by 1/n
  for each that is missing or too many, n being the number asked for; at least 0. What forbids more of the class is part
  of it: so an empty picture has nothing of "three cups".
- *color*: the share of the n looked at that have it. *position*: the share of the pairs that keep the relation. What
  is missing has neither.
- What is found but not surely enough counts for its *clarity*, score over threshold, a pair for the product: so what
  becomes easier to tell is worth more before it is told. Too many are only those that are sure.
- *exclusion* of a class that is not asked for: 1 where fewer than the forbidden number n are there, and otherwise less
  by 1/n for each that is too many; at least 0.

What is notable here: a grade is 1 if and only if the rules accept, and a picture that grants one wish more, or comes
nearer to a number, has a higher one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evals.detectors.detection import Detection
from evals.geneval.rules import MAX_OVERLAP, Metadata, color_of, keep, relations, threshold_of

Found = Mapping[str, Sequence[Detection]]

UNSURE = 0.999  # at most, so that no doubtful object is worth as much as a sure one


def grade(metadata: Metadata, detections: Iterable[Detection], max_overlap: float = MAX_OVERLAP) -> float:
    """The share of a prompt's wishes that a picture grants, in [0, 1].

    Raises:
        ValueError: as of `rules.judge`.
    """
    threshold = threshold_of(metadata)
    grades = list(_grades(metadata, keep(detections, 0.0, max_overlap), threshold))
    return float(sum(grades) / len(grades))


def _grades(metadata: Metadata, found: Found, threshold: float) -> Iterator[float]:
    wanted, unwanted = metadata.get("include", ()), metadata.get("exclude", ())
    groups = [found.get(wish["class"], ())[: wish["count"]] for wish in wanted]
    clear = [[_clarity(one, threshold) for one in group] for group in groups]

    def sure(name: str) -> int:
        return sum(bool(one.score > threshold) for one in found.get(name, ()))

    for wish, group, mine in zip(wanted, groups, clear, strict=True):
        count = wish["count"]
        limits = [other["count"] - 1 for other in unwanted if other["class"] == wish["class"]]
        too_many = max(0, sure(wish["class"]) - min(limits)) if limits else 0
        yield max(0.0, (sum(mine) - too_many) / count)
        if "color" in wish:
            yield (
                sum(
                    clarity
                    for one, clarity in zip(group, mine, strict=True)
                    if color_of(one) == wish["color"]
                )
                / count
            )
        if "position" in wish:
            relation, target = wish["position"]
            held = sum(
                clarity * others_clarity
                for one, clarity in zip(group, mine, strict=True)
                for other, others_clarity in zip(groups[target], clear[target], strict=True)
                if relation in relations(one.box, other.box)
            )
            yield held / (count * wanted[target]["count"])
    for wish in unwanted:
        if all(other["class"] != wish["class"] for other in wanted):
            too_many = max(0, sure(wish["class"]) - wish["count"] + 1)
            yield max(0.0, 1 - too_many / wish["count"])


def _clarity(one: Detection, threshold: float) -> float:
    return 1.0 if one.score > threshold else UNSURE * float(one.score) / threshold
