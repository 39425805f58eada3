"""How often a detector's verdict is the truth: on pairs of a true scene and a prompt, as many of them true as false.

What is notable here: a false prompt is one that is true of another scene, and of twenty such the one that has most
words in common with the true one (another colour of the same shape, `left of` for `right of`); so prompts of both kinds
are alike, and none is wrong at a glance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evals.detectors.detection import Detector
from evals.geneval.rules import TAGS, Metadata, judge
from scripts.demo.captions import captions, holds
from scripts.demo.scenes import Scene

CANDIDATES = 20


@dataclass(frozen=True)
class Pair:
    """`scene`: its place among the scenes; `holds`: whether `metadata` is true of it."""

    scene: int
    metadata: Metadata
    holds: bool


def pairs(scenes: Sequence[Scene], seed: int) -> list[Pair]:
    """For each scene and each tag that has a prompt true of it: one such prompt, and a false one of the same tag."""
    rng = np.random.default_rng(seed)
    true: dict[str, list[tuple[int, Metadata]]] = defaultdict(list)
    for place, scene in enumerate(scenes):
        by_tag: dict[str, list[Metadata]] = defaultdict(list)
        for metadata in captions(scene):
            by_tag[metadata["tag"]].append(metadata)
        for tag, found in by_tag.items():
            true[tag].append((place, found[int(rng.integers(len(found)))]))
    chosen = []
    for tag in TAGS:
        for place, metadata in true[tag]:
            drawn = [true[tag][i][1] for i in rng.integers(len(true[tag]), size=CANDIDATES)]
            false = [one for one in drawn if not holds(one, scenes[place].things)]
            if false:
                nearest = max(false, key=lambda one: _shared(one, metadata))
                chosen += [Pair(place, metadata, True), Pair(place, nearest, False)]
    return chosen


def _shared(first: Metadata, second: Metadata) -> int:
    return len({*first["prompt"].split()} & {*second["prompt"].split()})


def accuracy(detector: Detector, pictures: Sequence[Image.Image], asked: Iterable[Pair]) -> dict[str, float]:
    """Share of the pairs whose verdict is the truth: `overall`, the mean over the tags there are, and each of them."""
    seen: dict[int, list] = {}
    right: dict[str, list[bool]] = defaultdict(list)
    for pair in asked:
        if pair.scene not in seen:
            seen[pair.scene] = detector.detect(pictures[pair.scene])
        right[pair.metadata["tag"]].append(judge(pair.metadata, seen[pair.scene]).correct == pair.holds)
    found = {tag: sum(right[tag]) / len(right[tag]) for tag in TAGS if right[tag]}
    return {"overall": sum(found.values()) / len(found), **found}
