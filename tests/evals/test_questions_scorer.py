"""Questions as a scorer: what is asked, how answers count, and which judges are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_chat
import torch
from PIL import Image

from common.errors import UserError
from evals.answers import INSTRUCTION
from evals.geneval import phrasing as made
from evals.scorers import questions
from evals.scorers.asked import Phrasing, Question, questions_of, read_phrasing
from evals.scorers.config import ScorerConfig
from evals.scorers.opening import check_there, open_scorer
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.questions import QuestionsScorer
from understanding.chat.model import ChatModel

PLAIN = Phrasing(instruction="")


def prompt(metadata: Any, where: str = "") -> ScoredPrompt:
    return ScoredPrompt(str(metadata.get("prompt", "x")), metadata, where)


# ---- what is asked ---------------------------------------------------------------------------------------


def test_questions_follow_from_the_metadata() -> None:
    said = {
        "a circle": made.single_object("circle"),
        "red": made.colors("circle", "red"),
        "two": made.two_object("cat", "orange"),
        "three": made.counting("wine glass", 3),
        "place": made.position("dog", "left of", "cat"),
        "both": made.color_attr(("bus", "orange"), ("cup", "blue")),
    }
    asked = {name: [one.text for one in questions_of(prompt(one), PLAIN)] for name, one in said.items()}
    there = "Is there {} in the picture?".format
    assert asked == {
        "a circle": [there("a circle")],
        "red": [there("a red circle")],
        "two": [there("a cat"), there("an orange")],
        "three": ["Are there exactly three wine glasses in the picture?"],
        "place": [there("a cat"), there("a dog"), "Is the dog left of the cat?"],
        "both": [there("an orange bus"), there("a blue cup")],
    }
    without = {
        "tag": "single_object",
        "include": [],
        "exclude": [{"class": "cat", "count": 1}],
        "prompt": "x",
    }
    assert questions_of(prompt(without), Phrasing()) == [Question(f"{there('a cat')} {INSTRUCTION}", "no")]


def test_a_thing_without_a_color_may_be_asked_for_in_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A yes to one of them is a yes: of two pictures with one object each, the right one has it."""
    worded = Phrasing(colors=("red", "blue", "green"), instruction="")
    (asked,) = questions_of(prompt(made.single_object("cup")), worded)
    assert asked.texts == tuple(f"Is there a {one} cup in the picture?" for one in ("red", "blue", "green"))
    assert questions_of(prompt(made.colors("cup", "red")), worded)[0].others == ()
    said = ["no", "yes", "no", "no", "no", "no"]
    without = {
        "tag": "single_object",
        "include": [],
        "exclude": [{"class": "cup", "count": 1}],
        "prompt": "x",
    }
    for metadata, expected in ((made.single_object("cup"), [1, 0]), (without, [0, 1])):
        answering(monkeypatch, lambda chat: [token(chat, one) for one in said])
        judge = QuestionsScorer(str(folder), "cpu", [prompt(metadata)], worded, "answer")
        assert judge.score(prompt(metadata), [RED, RED]) == expected


def test_a_prompt_states_its_own_questions() -> None:
    stated = {**made.colors("circle", "red"), "questions": [{"question": "Is it night?", "answer": "no"}]}
    assert questions_of(prompt(stated), PLAIN) == [Question("Is it night?", "no")]
    stated["questions"] = [{"question": "Day?"}, {"question": "Which?", "answer": "b", "choices": ["a", "b"]}]
    first, second = questions_of(prompt(stated), Phrasing())
    assert (first.text, first.answer) == (f"Day? {INSTRUCTION}", "yes")
    assert second == Question("Which?", "b", ("a", "b"))


def test_a_prompt_without_any_is_asked_about_as_a_whole() -> None:
    dog = prompt({"prompt": "a dog in {the} snow"})
    assert questions_of(dog, PLAIN) == [Question("Does this picture show a dog in {the} snow?", "yes")]
    with pytest.raises(UserError, match="neither questions nor GenEval metadata"):
        questions_of(dog, Phrasing(whole=None))


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"tag": "dog", "include": 3}, "neither questions nor GenEval metadata to make them of: tag"),
        ({"questions": []}, "questions: expected a list of {question, answer}"),
        ({"questions": ["Is it?"]}, "questions: "),
        ({"questions": [{"answer": "yes"}]}, "questions: .*question"),
        ({"questions": [{"question": " "}]}, "questions: question: expected a text"),
        (
            {"questions": [{"question": "Is it?", "answer": "maybe"}]},
            "questions: answer: expected one of yes, no, found 'maybe'",
        ),
        ({"questions": [{"question": "a\ud83d"}]}, "questions: question: character 2"),
        (
            {"tag": "colors", "exclude": [{"class": "cat", "count": 3}]},
            ".*no question asks for fewer than 3 cats",
        ),
    ],
)
def test_what_gives_no_questions_is_named_by_its_line(metadata: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"^p.jsonl: line 7: {named}"):
        questions_of(prompt(metadata, "p.jsonl: line 7"), PLAIN)


def test_a_file_words_them_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "phrasing.yaml"
    path.write_text(
        'exists: "{a_thing}?"\ncount: "How many {things}?"\nnumbers: ["2", "3"]\ninstruction: "Say it."\n'
    )
    worded = read_phrasing(str(path))
    assert [one.text for one in questions_of(prompt(made.position("dog", "above", "cat")), worded)] == [
        "a cat? Say it.", "a dog? Say it.", "Is the dog above the cat? Say it.",
    ]  # fmt: skip
    assert questions_of(prompt(made.counting("bus", 3)), worded) == [
        Question("How many buses?", "3", ("2", "3"))
    ]
    with pytest.raises(UserError, match="4 is none of the phrasing's numbers"):
        questions_of(prompt(made.counting("bus", 4)), worded)
    for wrong, named in (
        ('exists: "Is it there?"', "exists: expected a text with {a_thing}, found"),
        ('exists: "{a_thing} {colour}?"', "exists: expected a text with {a_thing} and no other braces"),
        ('position: "{thing} {target}"', "position: expected a text with {thing}, {relation}, {target}"),
        ('question: "x"', "question: unknown key"),
    ):
        path.write_text(wrong)
        config = ScorerConfig(kind="questions", model=str(tmp_path), phrasing=str(path))
        with pytest.raises(UserError, match=f"rewards.0: phrasing: .*phrasing.yaml: {named}"):
            check_there(config, "rewards.0")


# ---- how answers count -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tiny.write_understanding_shelf(tmp_path_factory.mktemp("shelf"))
    return tiny_chat.write_chat_model(shelf, tmp_path_factory.mktemp("chat") / "model")


SAYS_NEITHER = r"2 of 2 answers are none of the choices, such as '.*' to .* \(yes or no\); over 5%"
RED = Image.new("RGB", (20, 14), "red")
ASKED = prompt(
    {"questions": [{"question": "Is it red?"}, {"question": "Is it a cat at all, or is it?", "answer": "no"}]}
)


def scorer(folder: Path, **settings: Any) -> QuestionsScorer:
    return QuestionsScorer(str(folder), "cpu", [ASKED], PLAIN, **settings)


def test_a_score_is_how_likely_the_right_answer_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the model's own logits, each question alone; whatever else stands in the batch."""
    monkeypatch.setattr(questions, "NEITHER", 1.0)  # random weights give any answer
    pictures = [RED, Image.new("LA", (30, 30), (0, 90)), RED.resize((9, 31))]
    mine = scorer(folder, batch_size=4)
    found = mine.score(ASKED, pictures)
    chat = ChatModel.from_pretrained(folder)
    for picture, score in zip(pictures, found, strict=True):
        shares = []
        for question in ASKED.metadata["questions"]:
            turns = [{"role": "user", "content": question["question"]}]
            asked = chat.prompt([picture], turns, questions.FIRST)
            with torch.inference_mode():
                ids = torch.tensor([asked.ids])
                (row,) = chat.model(input_ids=ids, **asked.vision).logits[:, -1].exp().double()
            yes, no = (float(row[sorted(mine._tokens[("yes", "no")][place])].sum()) for place in (0, 1))
            shares.append((no if question.get("answer") == "no" else yes) / (yes + no))
        assert score == pytest.approx(sum(shares) / 2, abs=1e-5)
    text_tokenizer = chat.processor.tokenizer
    for word, tokens in zip(("yes", "no"), mine._tokens[("yes", "no")], strict=True):
        assert {text_tokenizer.decode([one]).strip().lower()[0] for one in tokens} == {word[0]}
    assert max(found) - min(found) > 1e-4
    assert scorer(folder, batch_size=1).score(ASKED, pictures) == pytest.approx(found, abs=1e-5)
    assert mine.score(ASKED, []) == [] and mine.asked == 6
    assert scorer(folder).identity == mine.identity


def answering(monkeypatch: pytest.MonkeyPatch, choose: Callable[[ChatModel], list[int]]) -> None:
    """Each answer begins with the next of these tokens, by far."""

    def first_logits(self: ChatModel, prompts: Any) -> torch.Tensor:
        logits = torch.zeros(len(prompts), self.model.config.get_text_config().vocab_size)
        chosen = choose(self)
        for row in range(len(prompts)):
            logits[row, chosen[row % len(chosen)]] = 20
        return logits

    monkeypatch.setattr(ChatModel, "first_logits", first_logits)


def token(chat: ChatModel, text: str) -> int:
    return int(chat.processor.tokenizer(text, add_special_tokens=False).input_ids[0])


def test_an_answer_counts_as_it_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda chat: [token(chat, "yes"), token(chat, "no")])
    right, wrong = scorer(folder, answers="answer"), scorer(folder, answers="answer", batch_size=1)
    assert right.score(ASKED, [RED, RED]) == [1, 1]
    assert wrong.score(ASKED, [RED]) == [0.5]  # always the first token: yes
    assert right.neither == wrong.neither == 0
    assert scorer(folder).score(ASKED, [RED]) == pytest.approx([1], abs=1e-6)


def test_who_answers_neither_yes_nor_no_is_no_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda chat: [token(chat, "maybe")])
    judge = scorer(folder, batch_size=1)
    with pytest.raises(UserError, match=SAYS_NEITHER):
        judge.score(ASKED, [RED])
    # One of forty is let be, and counted.
    answering(monkeypatch, lambda chat: [*[token(chat, "yes")] * 39, token(chat, "maybe")])
    judge = scorer(folder, batch_size=40)
    assert len(judge.score(ASKED, [RED] * 20)) == 20
    assert (judge.asked, judge.neither) == (40, 1)


def test_choices_that_begin_alike_are_refused(folder: Path) -> None:
    alike = prompt({"questions": [{"question": "Which?", "answer": "b", "choices": ["B", "b"]}]})
    with pytest.raises(UserError, match="'B' and 'b' begin alike for this model's text tokenizer"):
        QuestionsScorer(str(folder), "cpu", [alike], PLAIN)


def test_a_model_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    import tiny_generator

    tiny_generator.write_vqrae(tmp_path / "vqrae")
    for model, named in (
        ("vqrae", "model: .*model_type: expected 'llava', found 'vqrae'"),
        ("gone", "missing here: a model that answers questions: .*gone: no such folder.*; set model"),
    ):
        config = ScorerConfig(kind="questions", model=str(tmp_path / model))
        with pytest.raises(UserError, match=f"^judge: {named}"):
            open_scorer(config, [ASKED], "judge", "cpu")
