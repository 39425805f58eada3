"""Every question about every picture, each asked once: the answers are kept, and dealt to processes by prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from common import dist
from common.data.images import CorruptImage, open_image
from common.errors import UserError, refusing
from evals.answers import Answers, answer_key
from evals.dpg.judges import Judge, tiles
from evals.dpg.rules import Item

Given = Mapping[str, list[dict[int, str]]]
"""Name of a prompt -> for each of its four pictures: number of a question -> the answer, as it was given."""


def ask_waiting(judge: Judge, items: Sequence[Item], pictures: Path, folder: Path) -> None:
    """Ask what has no answer yet; all processes call it together.

    Raises:
        UserError: a picture cannot be read, is no 2 x 2 grid, or answers cannot be kept.
    """
    from tqdm import tqdm

    kept = Answers(folder, dist.rank())
    mine = items[dist.rank() :: dist.world()]
    for item in tqdm(mine, unit="prompt", desc="ask", disable=not dist.is_main()):
        for tile, keys in _keyed(judge, item, pictures):
            waiting = {number: key for number, key in keys.items() if kept.get(key) is None}
            if waiting:
                given = judge.answer(tile, [item.questions[number].text for number in waiting])
                kept.add(dict(zip(waiting.values(), given, strict=True)))
    dist.barrier()


def read_answers(judge: Judge, items: Sequence[Item], pictures: Path, folder: Path) -> Given:
    """What `ask_waiting` was told.

    Raises:
        UserError: an answer is missing, since someone changed pictures or answers meanwhile.
    """
    kept = Answers(folder)
    found: dict[str, list[dict[int, str]]] = {}
    for item in items:
        found[item.name] = []
        for _, keys in _keyed(judge, item, pictures):
            answers = {number: kept.get(key) for number, key in keys.items()}
            if None in answers.values():
                raise UserError(
                    f"{folder}: prompt {item.name!r}: an answer is missing, or its picture has changed"
                )
            found[item.name].append({number: str(answer) for number, answer in answers.items()})
    return found


def neither(given: Given) -> Counter[str]:
    """How often what was answered that is neither `yes` nor `no`."""
    said = Counter(answer for tiles in given.values() for tile in tiles for answer in tile.values())
    return Counter({answer: count for answer, count in said.items() if answer not in ("yes", "no")})


def _keyed(judge: Judge, item: Item, pictures: Path) -> Iterator[tuple[Image.Image, dict[int, str]]]:
    """The four pictures of a prompt, each with the keys of its questions' answers."""
    path = pictures / f"{item.name}.png"
    with refusing(path, CorruptImage, ValueError):
        parts = tiles(open_image(path))
    for tile in parts:
        yield (
            tile,
            {
                number: answer_key(judge.key, [tile], [{"role": "user", "content": question.text}], {})
                for number, question in item.questions.items()
            },
        )
