"""From vectors to scores: which things of the test half are told right, by each method, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evals.bootstrap import Interval, intervals
from evals.semantics.labelled import Labelled
from evals.semantics.neighbours import nearest_neighbours
from evals.semantics.probe import fit_linear
from evals.semantics.vectors import AFTER, BEFORE, CODES, EMBEDDED
from evals.semantics.zero_shot import TextTower

RESAMPLES = 2000
SOURCES = (BEFORE, AFTER, CODES)
METHODS = {"probe": "linear probe", "knn": "k nearest neighbours", "zero_shot": "zero-shot"}


@dataclass(frozen=True)
class Accuracy:
    """Share of things told right, in [0, 1], with its bootstrap interval of 95% over pictures; `of_pictures`: the share
    in each picture of the test half."""

    accuracy: float
    interval: Interval
    of_pictures: list[float]


def split(pictures: int, fit_share: float, seed: int) -> np.ndarray:
    """(pictures,) bool: which are fitted on; at least one, and never all."""
    count = min(max(1, round(pictures * fit_share)), pictures - 1)
    fitted = np.zeros(pictures, bool)
    fitted[np.random.default_rng(seed).permutation(pictures)[:count]] = True
    return fitted


def scores(
    found: Mapping[str, np.ndarray],
    labelled: Labelled,
    fitted: np.ndarray,
    k: int,
    device: torch.device,
    tower: TextTower | None = None,
) -> dict[str, Accuracy]:
    """By name: `class_probe_before`, `class_knn_codes`, `class_zero_shot_after` ..., of each question, method, source.

    Args:
        found: of `vectors.vectors`, of all sources.
        fitted: of `split`; the other pictures are the test half.
    """
    scored = {}
    for question, labels in labelled.labels.items():
        picture_of = np.array([at for at, things in enumerate(labels) for _ in things])
        names, numbers = np.unique([label for things in labels for label in things], return_inverse=True)
        target, fits = torch.from_numpy(numbers).to(device), torch.from_numpy(fitted[picture_of]).to(device)
        for source in (source for source in SOURCES if source in found):
            inputs = torch.from_numpy(found[source]).to(device)
            told = {
                "probe": fit_linear(inputs[fits], target[fits], len(names)).predict(inputs[~fits]),
                "knn": nearest_neighbours(inputs[fits], target[fits], inputs[~fits], len(names), k),
            }
            embedded = found.get(f"{source}, {EMBEDDED}")
            if tower is not None and embedded is not None and labelled.boxes is None:
                pictures = torch.from_numpy(embedded).to(device)[~fits]
                told["zero_shot"] = (pictures @ tower.classes([str(name) for name in names]).T).argmax(1)
            for method, guesses in told.items():
                right = (guesses == target[~fits]).cpu().numpy()
                scored[f"{question}_{method}_{source}"] = accuracy(right, picture_of[~fitted[picture_of]])
    return scored


def accuracy(right: np.ndarray, picture_of: np.ndarray) -> Accuracy:
    """Of things (n,) that are right or not, by the picture that each is in (n,), pictures in rising order."""
    shares = [float(right[picture_of == picture].mean()) for picture in np.unique(picture_of)]
    return Accuracy(float(np.mean(shares)), _interval(shares), shares)


def differences(scored: Mapping[str, Accuracy]) -> dict[str, tuple[float, Interval]]:
    """Of each method and question, how far after lies from before, and the interval over pictures, seen in pairs."""
    found = {}
    for name, before in scored.items():
        stem, _, source = name.rpartition("_")
        if source == BEFORE:
            after = scored[f"{stem}_{AFTER}"]
            pairs = np.subtract(after.of_pictures, before.of_pictures)
            found[stem] = (float(pairs.mean()), _interval(pairs.tolist()))
    return found


def chance(labels: Sequence[Sequence[str]], fitted: np.ndarray) -> float:
    """The accuracy of whoever always says the commonest label of the fitted half."""
    seen = [label for things, fit in zip(labels, fitted, strict=True) if fit for label in things]
    tested = [label for things, fit in zip(labels, fitted, strict=True) if not fit for label in things]
    commonest = max(sorted(set(seen)), key=seen.count)
    return float(np.mean([label == commonest for label in tested]))


def _interval(shares: list[float]) -> Interval:
    return intervals({"all": shares}, resamples=RESAMPLES)["all"]
