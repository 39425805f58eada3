"""What the miniature language model sees: held-out questions, answered by greedy generation, and compared exactly.

    python -m scripts.demo.understanding_report --demo runs/demo

Compares the model on stage 2's encoder with the one on the frozen original encoder, trained alike, and, where there
is one, with the one on an encoder that learned without distillation. Every question is asked after the true turns
before it; once more with the pictures exchanged, since some answers can be guessed. Chance is what the most frequent
answer to each kind of question would reach. Writes the section `understanding` of summary.json, and answers.png.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from common.data.images import read_image
from common.errors import run_cli
from common.sheets import Answer, answer_sheet
from scripts.demo.command import demo_parser
from scripts.demo.summary import merge
from scripts.demo.world import read_records
from understanding.chat.model import ChatModel, load
from understanding.chat.turns import placed
from understanding.conversation import questions, read_conversation
from understanding.templates import IMAGE_TOKEN

ARMS = {
    "accuracy": "understanding_sft",
    "accuracy_frozen_encoder": "understanding_frozen_sft",
    "accuracy_no_distillation": "understanding_no_distillation_sft",
}
TOGETHER = 128  # questions answered at a time
ANSWER_TOKENS = 6  # the longest answer has two words
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question about picture number `picture`, with the turns before it, its right answer and its kind."""

    picture: int
    kind: str
    messages: list[dict[str, str]]
    answer: str


def read_turns(world: Path) -> tuple[list[Image.Image], list[Turn]]:
    """The held-out pictures that are asked about, and every question about them.

    Raises:
        UserError: the folder holds no world.
    """
    talks = read_records(world / "val_questions.json")
    turns = [
        Turn(picture=number, kind=kind, messages=messages, answer=answer)
        for number, talk in enumerate(talks)
        for kind, (messages, answer) in zip(
            talk["kinds"], questions(read_conversation(talk).messages), strict=True
        )
    ]
    return [read_image(world / talk["image"]) for talk in talks], turns


def answers(model: ChatModel, pictures: Sequence[Image.Image], turns: Sequence[Turn], name: str) -> list[str]:
    """What the model says to every turn, greedily."""
    given: list[str] = []
    for start in tqdm(range(0, len(turns), TOGETHER), desc=name, unit="batch"):
        some = turns[start : start + TOGETHER]
        requests = [([pictures[turn.picture]], placed(turn.messages)) for turn in some]
        given += model.answer(requests, max_new_tokens=ANSWER_TOKENS)
    return given


def accuracy(turns: Sequence[Turn], given: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Share of exact answers, over all questions and by kind."""
    hits = defaultdict(list)
    for turn, answer in zip(turns, given, strict=True):
        hits[turn.kind].append(answer == turn.answer)
    every = [hit for some in hits.values() for hit in some]
    return sum(every) / len(every), {kind: sum(some) / len(some) for kind, some in sorted(hits.items())}


def chance(turns: Sequence[Turn]) -> tuple[float, dict[str, float]]:
    """What the most frequent answer of each kind would reach, over all and by kind."""
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for turn in turns:
        said[turn.kind][turn.answer] += 1
    best = {kind: count.most_common(1)[0][1] for kind, count in sorted(said.items())}
    return sum(best.values()) / len(turns), {kind: best[kind] / said[kind].total() for kind in best}


def answered(pictures: Sequence[Image.Image], turns: Sequence[Turn], given: Sequence[str]) -> list[Answer]:
    """The first pictures with all their questions."""
    rows = [Answer(picture, []) for picture in pictures[:SHOWN]]
    for turn, answer in zip(turns, given, strict=True):
        if turn.picture < SHOWN:
            question = turn.messages[-1]["content"].replace(IMAGE_TOKEN, "")
            rows[turn.picture].turns.append((question, turn.answer, answer))
    return rows


def main() -> None:
    demo: Path = demo_parser(__doc__).parse_args().demo
    pictures, turns = read_turns(demo / "world")
    guessed, guessed_by_type = chance(turns)
    section: dict[str, Any] = {"questions": len(turns), "chance": guessed, "chance_by_type": guessed_by_type}
    for name, run in ARMS.items():
        folder = demo / run / "model"
        if name == "accuracy_no_distillation" and not folder.is_dir():
            continue  # trained with --ablations only
        model = load(folder)
        given = answers(model, pictures, turns, run)
        section[name], by_type = accuracy(turns, given)
        if name == "accuracy":
            section["by_type"] = by_type
            exchanged = [*pictures[1:], pictures[0]]
            section["accuracy_shuffled"], section["by_type_shuffled"] = accuracy(
                turns, answers(model, exchanged, turns, f"{run}, pictures exchanged")
            )
            answer_sheet(answered(pictures, turns, given)).save(demo / "answers.png")
    merge(demo / "summary.json", "understanding", section)
    print(f"answers: {demo / 'answers.png'}")


if __name__ == "__main__":
    run_cli(main)
