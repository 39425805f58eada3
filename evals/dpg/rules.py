"""DPG-Bench's rules: from yes and no to scores, for any model that answers.

Source: TencentQQGYLab/ELLA, `dpg_bench/compute_dpg_bench.py` (Apache-2.0). A prompt has several questions, some of
which make sense only if others are answered yes: their parents. Two ways to score:

- `official` reproduces the original, its faults included (ELLA issues 60 and 61). The first row of the CSV is dropped.
  Categories look at the last of the four pictures only, and at its answers before the parents count. A prompt with a
  parent that is not there drops out (in silence there, listed here): so may the first one, whose first row was dropped.
- `fixed` reads all rows, in whatever order they stand, lets parents count before their children, takes categories from
  all pictures after that, and refuses a parent that is not there and questions that hang on one another in a circle.

In both, a picture that is missing is an error.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from io import StringIO
from pathlib import Path
from typing import Literal

from common.errors import UserError, refusing
from common.text import BYTE_ORDER_MARK, read_text

Mode = Literal["official", "fixed"]
Answers = Mapping[int, bool]
"""Number of a question -> whether the answer was exactly `yes`."""

CATEGORIES = ("global", "entity", "attribute", "relation", "other")
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
TILES = 4
OFFICIAL_BLOB = "98457fc9901943f51ff9a30367250fc292533bed"
"""Git's name of dpg_bench.csv, unchanged in ELLA's repository since its release."""


@dataclass(frozen=True)
class Question:
    """One question about a picture; `parents` are the numbers of those that it hangs on."""

    text: str
    category: str
    parents: tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """A prompt with its questions by their numbers, in the order in which they count."""

    name: str
    text: str
    questions: Mapping[int, Question]


def read_items(path: Path, mode: Mode) -> list[Item]:
    """All prompts of the CSV, in its order.

    Raises:
        UserError: it cannot be read, a column is missing or a field is not what it should be; with `official`, a
            prompt's rows do not stand together; with `fixed`, a question stands there twice, a prompt has two texts, a
            parent is not there, or questions hang on one another in a circle.
    """
    rows = _rows(path)[1 if mode == "official" else 0 :]
    questions: dict[str, dict[int, Question]] = {}
    texts: dict[str, str] = {}
    last = None
    for number, row in rows:
        where, name = f"{path}: row {number}", row["item_id"]
        if mode == "official" and name != last and name in questions:
            raise UserError(f"{where}: item_id: the rows of {name!r} do not stand together")
        known = questions.setdefault(name, {})
        if texts.setdefault(name, row["text"]) != row["text"] and mode == "fixed":
            raise UserError(f"{where}: text: {name!r} has another one in the rows before")
        with refusing(f"{where}: proposition_id, dependency", ValueError):
            question_number = int(row["proposition_id"])
            parents = tuple(int(part) for part in row["dependency"].split(",") if int(part) != 0)
        if mode == "fixed" and question_number in known:
            raise UserError(f"{where}: proposition_id: {name!r} has two questions {question_number}")
        category = row["tuple"].split("(")[0].split("-")[0].strip()
        known[question_number] = Question(row["question_natural_language"], category, parents)
        last = name
    items = [Item(name, texts[name], found) for name, found in questions.items()]
    if mode == "official":
        return items
    with refusing(path, UserError):
        return [_parents_first(item) for item in items]


def is_official(content: bytes) -> bool:
    """Whether a file holds the official questions."""
    return blob_of(content) == OFFICIAL_BLOB


def blob_of(content: bytes) -> str:
    """Git's name for a file's content: prompts and questions, to the last byte."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def orphans(item: Item) -> list[int]:
    """Parents that its questions name and that are not there."""
    named = {parent for question in item.questions.values() for parent in question.parents}
    return sorted(named - set(item.questions))


def _parents_first(item: Item) -> Item:
    """The item with every question behind those that it hangs on, else in the order of their numbers.

    Raises:
        UserError: a parent is not there, or there is no such order.
    """
    if strays := orphans(item):
        raise UserError(f"dependency: {item.name!r}: no question {strays[0]}")
    hanging = {number: sorted(item.questions[number].parents) for number in sorted(item.questions)}
    try:
        order = list(TopologicalSorter(hanging).static_order())
    except CycleError as error:
        circle = ", ".join(map(str, error.args[1]))
        raise UserError(f"dependency: {item.name!r}: questions hang on one another: {circle}") from error
    return Item(item.name, item.text, {number: item.questions[number] for number in order})


def cascade(item: Item, answers: Answers) -> dict[int, bool]:
    """The answers of one picture after the parents count: a child of a parent that is no, is no.

    Question after question in the item's order, in place: so a no goes down to grandchildren, if each stands behind its
    parent. `fixed` sees to that; in the original's order, that of the CSV, they do in the official set.
    """
    scores = {number: answers[number] for number in item.questions}
    for number, question in item.questions.items():
        if not all(scores[parent] for parent in question.parents):
            scores[number] = False
    return scores


def item_score(item: Item, tiles: Sequence[Answers]) -> float:
    """Mean over the pictures of one prompt of the share of its questions that are yes, in [0, 1]."""
    shares = [sum(cascade(item, answers).values()) / len(item.questions) for answers in tiles]
    return sum(shares) / len(shares)


def scores(
    items: Sequence[Item], answers: Mapping[str, Sequence[Answers]], mode: Mode
) -> tuple[dict[str, float], list[str]]:
    """Scores in [0, 100], `overall` and the categories there are; and the prompts that the official rule dropped.

    `overall` is the mean over prompts, a category's score the mean over its questions, whatever prompt they are of.

    Args:
        answers: for each prompt those of its four pictures.

    Raises:
        UserError: a prompt's pictures are missing, or too few or too many; or nothing is left to score.
    """
    for item in items:
        there = len(answers.get(item.name, ()))
        if there != TILES:
            raise UserError(f"DPG-Bench: prompt {item.name!r}: expected {TILES} pictures, found {there}")
    whole = [item for item in items if not orphans(item)]
    dropped = [item.name for item in items if orphans(item)]
    if dropped and mode == "fixed":
        raise UserError(f"DPG-Bench: prompt {dropped[0]!r}: a question names a parent that is not there")
    if not whole:
        raise UserError("DPG-Bench: no prompt to score")
    by_category: dict[str, list[bool]] = defaultdict(list)
    for item in whole:
        tiles = answers[item.name]
        judged = [tiles[-1]] if mode == "official" else [cascade(item, one) for one in tiles]
        for tile in judged:
            for number, question in item.questions.items():
                by_category[question.category].append(tile[number])
    overall = _percent(item_score(item, answers[item.name]) for item in whole)
    order = [*CATEGORIES, *sorted(set(by_category) - set(CATEGORIES))]
    found = {name: _percent(by_category[name]) for name in order if name in by_category}
    return {"overall": overall, **found}, dropped


def _percent(values: Iterable[float]) -> float:
    listed = list(values)
    return 100 * sum(listed) / len(listed)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(number of the row, from 2 for the first after the header; its fields by column)."""
    with refusing(f"{path}: cannot be read", csv.Error):
        reader = csv.DictReader(StringIO(read_text(path), newline=""))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {missing[0]}")
        rows = []
        for number, row in enumerate(reader, 2):
            short = [name for name in COLUMNS if name != "text" and not row[name]]
            if short:
                raise UserError(f"{path}: row {number}: {short[0]}: empty")
            rows.append((number, {**row, "text": row["text"].removeprefix(BYTE_ORDER_MARK)}))
    if not rows:
        raise UserError(f"{path}: no questions")
    return rows
