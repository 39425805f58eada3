"""How much of what a picture is to say can be read in it, as a scorer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from PIL import Image

from common.errors import UserError
from evals.reading import Reader
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import as_rgb


class LegibilityScorer:
    """1 less the edit distance of what is read and the `text` of a prompt's metadata, over the longer one's length.

    Neither case nor white space counts: signs are set in capitals, and lines end anywhere. See `scorer.Scorer`.

    Raises:
        UserError: a prompt has no `text`.
    """

    def __init__(self, reader: Reader, prompts: Sequence[ScoredPrompt]) -> None:
        self.reader = reader
        self.identity = {"name": "legibility", "by": dict(reader.identity)}
        for prompt in prompts:
            text_of(prompt)

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        wanted = text_of(prompt)
        return [likeness(wanted, plain(self.reader.read(picture))) for picture in as_rgb(pictures)]


def text_of(prompt: ScoredPrompt) -> str:
    """What is to be read, plain; raises `UserError` where a prompt does not say it."""
    stated = prompt.metadata.get("text")
    if not isinstance(stated, str) or not plain(stated):
        raise UserError(f"{prompt.place}: text: expected what is to be read in the picture, found {stated!r}")
    return plain(stated)


def plain(text: str) -> str:
    """Letters composed and in lower case, without white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def likeness(first: str, second: str) -> float:
    """1 less the edit distance over the longer one's length: 1 for equal texts, 0 for those without a common letter."""
    longest = max(len(first), len(second))
    return 1 - edit_distance(first, second) / longest if longest else 1.0


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's: the fewest letters to put in, leave out or change, by Wagner and Fischer's table, row by row."""
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, 1):
        above, row = row, [place]
        for column, other in enumerate(second, 1):
            row.append(min(above[column] + 1, row[-1] + 1, above[column - 1] + (letter != other)))
    return row[-1]
