"""Of several pictures of a prompt, those that a scorer likes best.

    from vqrae import Generator, best_of
    from evals.scorers.config import ScorerConfig
    from evals.scorers.opening import open_scorer
    from evals.scorers.prompts import ScoredPrompt

    prompts = [ScoredPrompt("a red circle", {"questions": [{"question": "Is there a red circle?"}]})]
    judge = open_scorer(ScorerConfig(kind="questions", model="MODEL"), prompts, "judge", "cpu")
    [[(picture, score)]] = best_of(Generator.from_pretrained("GENERATOR"), prompts, judge, of=8)

What is notable here: picture k of those that are drawn is picture k of `generate`, and of equal scores the earlier
picture is taken; so what is chosen follows from the pictures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import Scorer
from generation.generator import Generator


def ranked(scores: Sequence[float]) -> list[int]:
    """Numbers of pictures, best first."""
    return sorted(range(len(scores)), key=lambda number: (-scores[number], number))


def best_of(
    generator: Generator,
    prompts: Sequence[ScoredPrompt],
    scorer: Scorer,
    of: int = 8,
    keep: int = 1,
    **drawing: Any,
) -> list[list[tuple[Image.Image, float]]]:
    """For each prompt the `keep` best of `of` pictures with their scores, best first.

    Args:
        drawing: further arguments of `Generator.generate`.

    Raises:
        UserError: as of `Generator.generate` and `Scorer.score`.
        ValueError: `keep` is not 1 to `of`, or as of `Generator.generate`.
    """
    if not 1 <= keep <= of:
        raise ValueError(f"keep: expected 1 to {of}, found {keep}")
    chosen = []
    rows = generator.generate([prompt.text for prompt in prompts], of, **drawing)
    for prompt, pictures in zip(prompts, rows, strict=True):
        scores = scorer.score(prompt, pictures)
        chosen.append([(pictures[number], scores[number]) for number in ranked(scores)[:keep]])
    return chosen
