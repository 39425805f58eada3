"""What is kept of answers, what own questions become, and what is read of lmms-eval's results; without lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from evals import targets
from evals.answers import Answers, answer_key, model_digest
from evals.lmms import questions as lmms_questions
from evals.lmms import run as lmms_run
from evals.lmms.tasks import PAPER_TASKS, read_scores

MESSAGES = [{"role": "user", "content": "<image>\nWhat is it?"}]
SETTINGS = {"max_new_tokens": 4, "temperature": 0.0, "until": ["\n\n"]}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def test_answers_of_all_processes_survive_a_kill(tmp_path: Path) -> None:
    Answers(tmp_path, rank=0).add({"a": "one\ntwo", "b": ""})
    Answers(tmp_path, rank=1).add({"c": "drei"})
    path = tmp_path / "00000.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # the process was killed while it wrote the second one
    again = Answers(tmp_path, rank=0)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("one\ntwo", None, "drei")
    again.add({"b": "late"})
    assert Answers(tmp_path).get("b") == "late"


def test_an_answer_is_filed_under_all_it_depends_on(tmp_path: Path) -> None:
    key = answer_key("m", [picture(0)], MESSAGES, SETTINGS)
    assert key == answer_key("m", [picture(0)], [dict(MESSAGES[0])], dict(reversed(SETTINGS.items())))
    others = [
        answer_key("n", [picture(0)], MESSAGES, SETTINGS),
        answer_key("m", [picture(1)], MESSAGES, SETTINGS),
        answer_key("m", [picture(0).resize((4, 16))], MESSAGES, SETTINGS),
        answer_key("m", [], MESSAGES, SETTINGS),
        answer_key("m", [picture(0)], [{"role": "user", "content": "<image>\nWhat is this?"}], SETTINGS),
        answer_key("m", [picture(0)], MESSAGES, {**SETTINGS, "max_new_tokens": 5}),
    ]
    assert len({key, *others}) == 7
    (tmp_path / "chat_template.jinja").write_text("one")
    before = model_digest(tmp_path, "0")
    (tmp_path / "chat_template.jinja").write_text("two")
    assert before != model_digest(tmp_path, "0")


def talk(**changes: Any) -> dict[str, Any]:
    texts = [
        "<image>\nDescribe it.",
        "A red circle above two squares.",
        "What color is the circle?",
        "Red.",
        "How many squares?",
        "2",
    ]
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    return {
        "id": "0",
        "image": "0.png",
        "conversations": turns,
        "kinds": ["caption", "color", "count"],
        **changes,
    }


def write(folder: Path, *talks: dict[str, Any]) -> Path:
    picture(0).save(folder / "0.png")
    (folder / "mine.json").write_text(json.dumps(talks))
    return folder / "mine.json"


def test_short_answers_are_asked_for_after_the_true_turns(tmp_path: Path) -> None:
    color, count = lmms_questions.read_questions(write(tmp_path, talk()), tmp_path)
    assert (color["kind"], color["answer"], count["kind"], count["answer"]) == ("color", "Red.", "count", "2")
    assert [turn["content"] for turn in color["turns"]] == [
        "<image>\nDescribe it.",
        "A red circle above two squares.",
        "What color is the circle?",
    ]
    assert count["turns"][:3] == color["turns"] and len(count["turns"]) == 5
    first, *later = lmms_questions.to_messages(color)
    assert first["content"] == [
        {"type": "image", "url": str(tmp_path / "0.png")},
        {"type": "text", "text": "Describe it."},
    ]
    assert [message["role"] for message in later] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "1.png"}, "1.png: no such file"),
        ({"kinds": ["color"]}, "kinds: expected 3, found 1"),
        ({"conversations": []}, "record 1: empty conversation"),
        ({"conversations": talk()["conversations"][:2], "kinds": ["caption"]}, "at most 3 words"),
    ],
)
def test_questions_that_cannot_be_asked_are_named(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        lmms_questions.read_questions(write(tmp_path, talk(**changes)), tmp_path)


@pytest.mark.parametrize(
    ("said", "right"), [("red", 1), (" RED. ", 1), ("red circle", 0), ("", 0), ("re", 0), ("red..", 0)]
)
def test_answers_are_compared_exactly(said: str, right: int) -> None:
    assert lmms_questions.score({"answer": "Red.", "kind": "color"}, [said]) == {
        "accuracy": right,
        "color": right,
    }
    assert lmms_questions.score({"answer": "red", "kind": ""}, [said]) == {"accuracy": right}


def test_scores_have_the_units_and_names_of_the_table() -> None:
    found = {
        "gqa": {"alias": "gqa", "exact_match,none": 0.625, "exact_match_stderr,none": 0.01, "n": 12},
        "mme": {"mme_perception_score,none": 1445.5, "mme_cognition_score,none": 300.0},
        "ai2d": {"exact_match,flexible-extract": 0.5},
        "pope": {"pope_f1_score,none": float("nan"), "pope_accuracy,none": 0.5},
    }
    read = {task: read_scores(task, {task: values}) for task, values in found.items()}
    assert read == {
        "gqa": {"gqa": 62.5},
        "mme": {"mme_perception": 1445.5},
        "ai2d": {"ai2d": 50.0},
        "pope": {},
    }
    other = {"mine": {"accuracy,none": 75.0, "color,none": 50.0, "accuracy_stderr_clt,none": 1.0, "n": 3}}
    assert read_scores("mine", other) == {"mine": 75.0, "mine/color": 50.0}
    row = targets.load()["understanding"]["Vicuna-7B 256 px"]
    assert {task.score for task in PAPER_TASKS.values()} == set(row.scores)


def test_what_is_missing_is_said_in_one_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import config

    from evals import preflight

    monkeypatch.setattr(preflight, "hub_answers", lambda: False)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "lmms-lab-encoder___mm_bench").mkdir()  # as the library names MMBench's folder
    with pytest.raises(UserError, match="the data of"):
        lmms_run.main(["nobody/nothing", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 24 and "hf download nobody/nothing" in said
    for name, task in PAPER_TASKS.items():
        assert (task.dataset in said) == (name != "mmbench_en_dev_static")
