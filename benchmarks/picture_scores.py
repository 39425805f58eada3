"""What a generator's pictures are worth: by the exact detector, by the held-out judge, how various they are, best of 4.

One cell of `benchmarks/better_pictures.py`: one generator, one guidance. All figures are kept for each prompt, so that
intervals and comparisons can be made of them later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.bootstrap import Interval, intervals
from evals.geneval.grading import grade
from evals.geneval.nothing_else import nothing_else
from evals.geneval.rules import TAGS, Metadata, judge

if TYPE_CHECKING:
    from PIL.Image import Image

    from evals.detectors.detection import Detector
    from generation.generator import Generator

OF = 4  # pictures, of which the best is taken
SCORES = ("exact", "judge", "best_of_4_exact", "best_of_4_judge")
"""Shares of right pictures, all but `judge` by the exact detector; of 4, the one that the named detector prefers."""


def measure(
    model: Path, prompts: Sequence[Metadata], detectors: tuple[Detector, Detector], n: int, cfg_scale: float
) -> dict[str, Any]:
    """A cell: `seconds` of drawing, and for each prompt its text, its tag, `SCORES`, `agreement`, `strict` (right, and
    nothing else in the picture: what GenEval's rules do not ask) and `diversity`.

    Args:
        detectors: the exact one, and the held-out judge.
        n: pictures of each prompt, divisible by `OF`.
    """
    from generation.generator import Generator

    generator = Generator.from_pretrained(str(model))
    sampling = replace(generator.sampling, cfg_scale=cfg_scale)
    start = time.perf_counter()
    texts = [metadata["prompt"] for metadata in prompts]
    drawn = generator.generate(texts, n, sampling=sampling, batch_size=64)
    seconds = time.perf_counter() - start
    found = [
        of_prompt(metadata, pictures, detectors) | {"diversity": apart(generator, pictures)}
        for metadata, pictures in zip(prompts, drawn, strict=True)
    ]
    return {"cfg_scale": cfg_scale, "pictures": n, "seconds": seconds, "prompts": found}


def of_prompt(
    metadata: Metadata, pictures: Sequence[Image], detectors: tuple[Detector, Detector]
) -> dict[str, Any]:
    """What two detectors see in the pictures of one prompt, as shares of them."""
    seen = [[detector.detect(picture) for picture in pictures] for detector in detectors]
    right = [[judge(metadata, one).correct for one in of_detector] for of_detector in seen]
    grades = [[grade(metadata, one) for one in of_detector] for of_detector in seen]
    places = range(len(pictures))
    groups = [places[first : first + OF] for first in range(0, len(pictures), OF)]
    best = [[right[0][max(group, key=of_detector.__getitem__)] for group in groups] for of_detector in grades]
    strict = nothing_else(metadata, detectors[0].classes)
    values = zip(SCORES, (right[0], right[1], best[0], best[1]), strict=True)
    return {
        "prompt": metadata["prompt"],
        "tag": metadata["tag"],
        **{name: sum(hits) / len(hits) for name, hits in values},
        "strict": sum(judge(strict, one).correct for one in seen[0]) / len(pictures),
        "agreement": sum(x == y for x, y in zip(*right, strict=True)) / len(pictures),
    }


def apart(generator: Generator, pictures: Sequence[Image]) -> float:
    """Mean distance, 1 - cosine, between the pictures of a prompt, by the mean features of the generator's own VQRAE:
    to be compared before and after, not between tokenizers."""
    import numpy as np
    import torch

    from common.data.images import to_float
    from post_training.rollouts import diversity, pooled

    pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in pictures])
    with torch.inference_mode():
        features = pooled(generator.vqrae, to_float(pixels).to(generator.device), "fp32")
    return float(diversity(features, len(pictures))[0])


def by_tag(cells: Sequence[Mapping[str, Any]], score: str) -> dict[str, list[float]]:
    """Each prompt's score, the mean over the cells (seeds), in the tags that there are."""
    means = [
        (one["tag"], sum(cell["prompts"][place][score] for cell in cells) / len(cells))
        for place, one in enumerate(cells[0]["prompts"])
    ]
    found = {tag: [score for of, score in means if of == tag] for tag in TAGS}
    return {tag: scores for tag, scores in found.items() if scores}


def summary(cells: Sequence[Mapping[str, Any]], score: str) -> dict[str, tuple[float, Interval]]:
    """`overall`, the mean over the tags, and each tag: its mean, with its 95% interval over prompts."""
    groups = by_tag(cells, score)
    spans = intervals(groups)
    means = {tag: sum(scores) / len(scores) for tag, scores in groups.items()}
    return {
        name: (value, spans[name])
        for name, value in {"overall": sum(means.values()) / len(means), **means}.items()
    }
