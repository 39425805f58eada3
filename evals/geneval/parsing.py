"""From GenEval's phrasing back to its metadata, for prompts that somebody types.

    "a photo of two circles"  ->  {"tag": "counting", "include": [{"class": "circle", "count": 2}], ...}

What is notable here: nothing is guessed. A text is split into what `phrasing` would have made it of, in terms of a
detector's classes and colours, made again from that, and refused unless it comes out word for word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from common.benchmark_prompts import words
from common.errors import UserError
from common.text import shown
from evals.geneval import phrasing
from evals.geneval.phrasing import NUMBERS, OPENING
from evals.geneval.rules import RELATIONS, Metadata

FORMS = (
    "a photo of a CLASS, a COLOR CLASS, a CLASS and a CLASS, a COLOR CLASS and a COLOR CLASS, a CLASS "
    f"{'|'.join(RELATIONS)} a CLASS, or {NUMBERS[2]} to {NUMBERS[10]} CLASSes"
)
LISTED = 12  # classes in an error


def parse_prompt(text: str, classes: Sequence[str], colors: Sequence[str]) -> Metadata:
    """The metadata of a prompt in GenEval's phrasing, with `text` itself as its `prompt`.

    Neither case nor punctuation nor white space count, nor the `a photo of`, nor whether it is `a` or `an`.

    Raises:
        UserError: it is no such prompt, or names what is no class or colour.
    """
    said = _plain(text)
    for metadata in _readings(said, classes, colors):
        if _plain(str(metadata["prompt"])) == said:
            return {**metadata, "prompt": text}
    known = ", ".join(classes[:LISTED]) + (
        f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    )
    raise UserError(
        f"{shown(text)}: no rules follow from this prompt: expected {FORMS}; classes: {known}; colours: "
        f"{', '.join(colors) or 'none'}"
    )


def _plain(text: str) -> str:
    """In lower case, without punctuation, articles all `a`, without the opening."""
    plain = " ".join("a" if word == "an" else word for word in words(text))
    return plain.removeprefix(OPENING)


def _readings(said: str, classes: Sequence[str], colors: Sequence[str]) -> Iterator[Metadata]:
    """All that `said` could be made of, each made whole."""
    things = {f"a {_plain(name)}": (name, None) for name in classes}
    colored = {f"a {color} {_plain(name)}": (name, color) for name in classes for color in colors}
    if said in things:
        yield phrasing.single_object(things[said][0])
    if said in colored:
        name, color = colored[said]
        yield phrasing.colors(name, color)
    for number, word in NUMBERS.items():
        yield from (
            phrasing.counting(name, number)
            for name in classes
            if said == f"{word} {_plain(phrasing.plural(name))}"
        )
    for link in chain(RELATIONS, ["and"]):
        parts = said.split(f" {link} ")
        for cut in range(1, len(parts)):
            first, second = (f" {link} ".join(part) for part in (parts[:cut], parts[cut:]))
            if first in things and second in things and link == "and":
                yield phrasing.two_object(things[first][0], things[second][0])
            elif first in things and second in things:
                yield phrasing.position(things[first][0], link, things[second][0])
            elif first in colored and second in colored and link == "and":
                yield phrasing.color_attr(colored[first], colored[second])
