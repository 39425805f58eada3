"""Several scorers as one: the mean of their scores by weight, with each one's own beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import Scorer, as_rgb


class WeightedScorer:
    """See `scorer.Scorer`.

    Args:
        scorers: name of each -> its weight, 0 or more, and itself. One of weight 0 is looked at all the same.

    Raises:
        ValueError: a weight is negative, or all are 0.
    """

    def __init__(self, scorers: Mapping[str, tuple[float, Scorer]]) -> None:
        whole = sum(weight for weight, _ in scorers.values())
        if not whole > 0 or any(weight < 0 for weight, _ in scorers.values()):
            raise ValueError("weight: expected weights of 0 or more, one of them above 0")
        self.scorers = {name: scorer for name, (_, scorer) in scorers.items()}
        self.shares = {name: weight / whole for name, (weight, _) in scorers.items()}
        self.identity = {
            "name": "weighted",
            "parts": {
                name: {"share": self.shares[name], **scorer.identity} for name, scorer in self.scorers.items()
            },
        }

    def parts(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> dict[str, list[float]]:
        """Each scorer's own scores, by its name."""
        seen = as_rgb(pictures)
        return {name: scorer.score(prompt, seen) for name, scorer in self.scorers.items()}

    def total(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """The scores that follow from those of `parts`."""
        columns = zip(*(parts[name] for name in self.shares), strict=True)
        return [
            sum(share * one for share, one in zip(self.shares.values(), row, strict=True)) for row in columns
        ]

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        return self.total(self.parts(prompt, pictures))
