"""Questions about a picture that follow from its prompt: by rule from GenEval's metadata, or stated by the prompt.

What is notable here: how they are worded is a file's to say (`Phrasing`), since a model answers best what it was asked
in training. An object is one question, `Is there a red circle in the picture?`; several are one about their number; a
place is one about both objects. A prompt with neither metadata nor questions is asked about as a whole, as VQAScore
does (arXiv 2404.01291).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from common.config import Checked, configclass, load_config
from common.errors import UserError, refusing
from common.text import checked
from evals.answers import INSTRUCTION
from evals.geneval.phrasing import NUMBERS, a, plural
from evals.geneval.rules import Metadata, judge
from evals.scorers.prompts import ScoredPrompt

YES_OR_NO = ("yes", "no")
WRONG = (UserError, ValueError, KeyError, TypeError, AttributeError)
"""What metadata of another form comes to."""


def naming(*places: str, perhaps: str = "") -> Checked:
    """A text with these places in braces, perhaps one more, and no others."""

    def problem(text: str) -> str | None:
        expected = f"expected a text with {', '.join(f'{{{place}}}' for place in places)}"
        try:
            text.format(**dict.fromkeys((*places, perhaps), ""))
        except (KeyError, IndexError, ValueError, AttributeError):
            return f"{expected} and no other braces, found {text!r}"
        return None if all(f"{{{place}}}" in text for place in places) else f"{expected}, found {text!r}"

    return Checked(problem)


@configclass
class Phrasing:
    """How questions are worded. A thing is a class with its colour, if it has one: `red circle`."""

    exists: Annotated[str, naming("a_thing")] = "Is there {a_thing} in the picture?"  # a red circle
    # For a model that was only asked about things with a colour: others are asked about in each of these, any will do
    colors: tuple[str, ...] | None = None
    # {number} in words. With `numbers` the question asks for one of these, and {number} need not stand in it
    count: Annotated[str, naming("things", perhaps="number")] = (
        "Are there exactly {number} {things} in the picture?"
    )
    numbers: tuple[str, ...] | None = None  # answers to `count`: "1", "2" ...; null: yes or no
    position: Annotated[str, naming("thing", "relation", "target")] = (
        "Is the {thing} {relation} the {target}?"
    )
    # Of a prompt that has neither; null: such prompts are refused
    whole: Annotated[str, naming("prompt")] | None = "Does this picture show {prompt}?"
    instruction: str = INSTRUCTION  # stands behind what is answered by yes or no; may be empty


@dataclass(frozen=True)
class Question:
    """`answer`: the right one of `choices`.

    `others`: further questions; a yes to any of them is a yes.
    """

    text: str
    answer: str
    choices: tuple[str, ...] = YES_OR_NO
    others: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text, *self.others)


def read_phrasing(path: str | None) -> Phrasing:
    """The phrasing of a YAML file; raises `UserError` for one that cannot be read or used."""
    return Phrasing() if path is None else load_config(Phrasing, Path(path))


def questions_of(prompt: ScoredPrompt, phrasing: Phrasing) -> list[Question]:
    """What is asked about a picture of a prompt: the `questions` that its line states, else those by rule.

    Raises:
        UserError: they are no questions, or it has no metadata that questions follow from.
    """
    if "questions" in prompt.metadata:
        with refusing(f"{prompt.place}: questions", *WRONG):
            return [_stated(one, phrasing) for one in _listed(prompt.metadata["questions"])]
    if phrasing.whole is not None and not {"tag", "include", "exclude"} & prompt.metadata.keys():
        return [_question(phrasing.whole.format(prompt=prompt.text), "yes", phrasing)]
    with refusing(f"{prompt.place}: neither questions nor GenEval metadata to make them of", *WRONG):
        judge(prompt.metadata, [])
        return list(_by_rule(prompt.metadata, phrasing))


def _listed(stated: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(stated, list) or not stated:
        raise ValueError("expected a list of {question, answer}")
    return stated


def _stated(one: Mapping[str, Any], phrasing: Phrasing) -> Question:
    text, answer = one["question"], one.get("answer", "yes")
    choices = tuple(one.get("choices", YES_OR_NO))
    if not isinstance(text, str) or not text.strip():
        raise ValueError("question: expected a text")
    if answer not in choices:
        raise ValueError(f"answer: expected one of {', '.join(map(str, choices))}, found {answer!r}")
    return _question(checked(text, "question"), answer, phrasing, choices)


def _by_rule(metadata: Metadata, phrasing: Phrasing) -> Iterator[Question]:
    wanted = metadata.get("include", ())
    for wish in wanted:
        thing = _thing(wish)
        if wish["count"] == 1:
            yield _exists(thing, "yes", phrasing, "color" in wish)
        else:
            yield _count(thing, wish["count"], phrasing)
        if "position" in wish:
            relation, target = wish["position"]
            text = phrasing.position.format(
                thing=wish["class"], relation=relation, target=wanted[target]["class"]
            )
            yield _question(text, "yes", phrasing)
    for wish in metadata.get("exclude", ()):
        if wish["count"] == 1:
            yield _exists(_thing(wish), "no", phrasing, "color" in wish)
        elif all(other["class"] != wish["class"] for other in wanted):
            raise ValueError(f"no question asks for fewer than {wish['count']} {plural(wish['class'])}")


def _exists(thing: str, answer: str, phrasing: Phrasing, has_color: bool) -> Question:
    things = (
        [thing] if has_color or not phrasing.colors else [f"{color} {thing}" for color in phrasing.colors]
    )
    texts = [_ended(phrasing.exists.format(a_thing=a(one)), phrasing) for one in things]
    return Question(texts[0], answer, others=tuple(texts[1:]))


def _count(thing: str, count: int, phrasing: Phrasing) -> Question:
    text = phrasing.count.format(number=NUMBERS.get(count, str(count)), things=plural(thing))
    if phrasing.numbers is None:
        return _question(text, "yes", phrasing)
    if str(count) not in phrasing.numbers:
        raise UserError(f"{count} is none of the phrasing's numbers")
    return Question(text, str(count), phrasing.numbers)


def _thing(wish: Metadata) -> str:
    return f"{wish['color']} {wish['class']}" if "color" in wish else str(wish["class"])


def _question(text: str, answer: str, phrasing: Phrasing, choices: tuple[str, ...] = YES_OR_NO) -> Question:
    return Question(_ended(text, phrasing) if choices == YES_OR_NO else text, answer, choices)


def _ended(text: str, phrasing: Phrasing) -> str:
    """A question that is answered by yes or no, with how to answer behind it."""
    return f"{text} {phrasing.instruction}" if phrasing.instruction else text
