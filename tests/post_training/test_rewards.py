"""What pictures are worth, as tensors that all ranks may add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evals.scorers.prompts import ScoredPrompt
from evals.scorers.weighted import WeightedScorer
from post_training.prompts import Group
from post_training.rewards import score
from post_training.rollouts import Drawn


class Told:
    """Gives each picture the number it is told, in the type it is told."""

    def __init__(self, kind: Any) -> None:
        self.kind, self.identity = kind, {"name": "told"}

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        return [self.kind(1) for _ in pictures]


@pytest.mark.parametrize("kind", [float, int, np.float64, np.float32])
def test_scores_of_any_number_type_become_float32(kind: Any) -> None:
    """A rank whose sums were float64 beside one whose are float32 ends both of them, in gloo."""
    groups = [Group(ScoredPrompt("a", {"prompt": "a"}, "here"), 0)]
    pictures = [Image.new("RGB", (4, 4))] * 2
    drawn = Drawn(groups, torch.zeros(2, 1), torch.zeros(2, 1), pictures, torch.zeros(2, 3))
    scorers = WeightedScorer({"told": (1.0, Told(kind))})
    found = score(scorers, drawn)
    assert found.rewards.dtype == found.parts["told"].dtype == torch.float32
    assert found.rewards.tolist() == [[1.0, 1.0]]
