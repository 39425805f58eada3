"""The demo's language model and the report on its answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import UserError
from evals.detectors.world_shapes import COLORS, SHAPES
from scripts.demo import language_model
from scripts.demo import understanding_report as report
from scripts.demo.captions import NUMBERS
from scripts.demo.text_tokenizer import learn_tokens


def test_it_writes_a_plain_folder(
    world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--world", str(world_folder), "--out", str(tmp_path / "lm"), "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["language_model.py", *arguments])
    language_model.main()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    text_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    assert len(text_tokenizer) <= model.config.vocab_size
    assert set(language_model.CONTROLS) <= set(text_tokenizer.get_vocab())
    text = "What color is the circle? Ünïcode too."
    assert text_tokenizer.decode(text_tokenizer(text).input_ids) == text


def test_answers_and_roles_are_single_tokens() -> None:
    words = [*COLORS, *SHAPES, *map(str, NUMBERS), "yes", "no"]
    text_tokenizer = learn_tokens([*words, *language_model.ROLES], None, language_model.CONTROLS)
    for word in [*words, "user", "assistant"]:
        assert len(text_tokenizer.tokenize(word)) == 1, word


def test_a_folder_without_a_world_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.jsonl: expected a world"):
        language_model.read_texts(tmp_path)
    with pytest.raises(UserError, match=r"val_questions\.json: expected a world"):
        report.read_turns(tmp_path)


def test_every_held_out_question_is_asked_after_the_true_turns(world_folder: Path) -> None:
    pictures, turns = report.read_turns(world_folder)
    talks = json.loads((world_folder / "val_questions.json").read_text())
    assert len(pictures) == len(talks) and len(turns) == sum(len(talk["kinds"]) for talk in talks)
    for turn in turns:
        said = talks[turn.picture]["conversations"]
        asked = len(turn.messages)
        assert [message["content"] for message in turn.messages] == [part["value"] for part in said[:asked]]
        assert turn.answer == said[asked]["value"] and turn.messages[-1]["role"] == "user"


def test_accuracy_and_chance_by_hand() -> None:
    answers = [("color", "red"), ("color", "red"), ("color", "blue"), ("count", "2")]
    turns = [report.Turn(picture=0, kind=kind, messages=[], answer=answer) for kind, answer in answers]
    assert report.accuracy(turns, ["red", "blue", "blue", "3"]) == (0.5, {"color": 2 / 3, "count": 0.0})
    assert report.chance(turns) == (0.75, {"color": 2 / 3, "count": 1.0})
