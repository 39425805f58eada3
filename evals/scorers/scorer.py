"""The contract of a scorer: a prompt and its pictures in, a score for each picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from common.data.images import CorruptImage, open_image
from common.errors import refusing
from evals.scorers.prompts import ScoredPrompt


class Scorer(Protocol):
    """How well a picture shows its prompt, in [0, 1]; the same each time.

    `identity`: whatever its scores follow from, as JSON. Its `by` is what looks at the pictures (a detector, a model,
    a reader), with the hash of its weights or of its code; beside it stand the settings.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        """A score for each picture of a prompt: of any mode, and perhaps none.

        Raises:
            UserError: pictures that it cannot look at, or it has turned out to be no judge.
        """
        ...


def as_rgb(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Pictures of any mode as upright RGB; raises `UserError` for one that is damaged."""
    with refusing("a picture", CorruptImage):
        return [open_image(one) for one in pictures]
