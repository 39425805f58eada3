"""`vqrae ask --file`: each line for itself, batch after batch, and nothing twice; and what ends a call in one line."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_bad_input import bomb
from tiny_chat import write_chat_model

from common.errors import UserError, run_cli
from understanding.chat.answer_file import AnswerFile
from understanding.chat.model import ChatModel, load
from understanding.chat.question_file import Question, read_questions
from vqrae.cli import dispatch

Ask = Callable[..., int]


@pytest.fixture(scope="module")
def model_folder(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(shelf, tmp_path_factory.mktemp("ask") / "model")


@pytest.fixture(scope="module")
def chat(model_folder: Path) -> ChatModel:
    return load(model_folder)


@pytest.fixture
def ask(model_folder: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`vqrae ask MODEL ...`; returns its exit code."""
    monkeypatch.setattr("understanding.chat.model.load", lambda *_, **__: chat)

    def call(*words: Any) -> int:
        try:
            run_cli(lambda: dispatch(["ask", str(model_folder), "--max-new-tokens", "4", *map(str, words)]))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


GOOD = {"image": "2.png", "question": "How many?"}
LINES: list[tuple[Any, str | None]] = [
    ({"id": 7, "image": "0.png", "question": "What color is it?"}, None),
    (
        {
            "question_id": "b",
            "image": ["0.png", "1.png"],
            "text": "Which\u2028is red? \U0001f600",
            "category": "x",
        },
        None,
    ),
    (b"no JSON", "the line: no valid JSON: "),
    (b'{"question": "caf\xe9"}', "the line: expected text in UTF-8: "),
    (b"[" * 100_000, "the line: no valid JSON: "),
    (b"", None),
    (b"  ", None),
    ({"image": "torn.png", "question": "What?"}, "image: {folder}/torn.png: "),
    (
        {"image": "bomb.png", "question": "What?"},
        "image: {folder}/bomb.png: 400000000 pixels, over the limit",
    ),
    ({"image": "gone.png", "question": "What?"}, "image: {folder}/gone.png: No such file"),
    ({"image": ".", "question": "What?"}, "image: {folder}: not a file"),
    ({"question": "Who?"}, None),
    ({"id": 7, "question": "Who?"}, "id: 7 stands on line 1 already"),
    ({**GOOD, "question": "x " * 100_000}, "question: too long: "),
    ({**GOOD, "question": "half \ud83d"}, "question: character 6 is no valid Unicode"),
    ({**GOOD, "question": "a\0b"}, "question: character 2 is a NUL"),
    ({**GOOD, "question": " "}, "question: nothing is asked"),
    ({**GOOD, "question": ["What?"]}, "question: expected text, found list"),
    ({**GOOD, "text": "What?"}, "text: question is told twice"),
    ({**GOOD, "id": None}, "id: expected a number or a text"),
    ({"image": 3, "question": "What?"}, "image: expected a path, or a list of them"),
    ({"image_path": "2.png", "question": "What?"}, "image_path: unknown; pictures are named by image"),
    ({"image": "2.png"}, "question: missing"),
    ([1], "expected an object, found list"),
    ({**GOOD, "id": "last"}, None),
]
BAD = [number for number, (_, reason) in enumerate(LINES, 1) if reason]


def write_lines(path: Path, lines: list[Any], end: bytes = b"\n") -> Path:
    """With surrogates escaped and all else as it is."""
    encoded = [
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii="\\ud83d" in str(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"\xef\xbb\xbf" + end.join(encoded))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    for seed in range(3):
        picture(seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    (tmp_path / "bomb.png").write_bytes(bomb())
    return write_lines(tmp_path / "questions.jsonl", [line for line, _ in LINES], b"\r\n")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_each_line_for_itself(
    ask: Ask, chat: ChatModel, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    assert ask("--file", questions, "--out", out, "--batch-size", 3) == 2
    seen = capsys.readouterr().err
    told = dict(re.findall(rf"{re.escape(str(questions))}:(\d+): (.*)", seen))
    assert sorted(map(int, told)) == BAD
    for number in BAD:
        assert told[str(number)].startswith((LINES[number - 1][1] or "").replace("{folder}", str(tmp_path)))
    assert (
        seen.rstrip().split("\n")[-1].startswith(f"error: {questions}: {len(BAD)} questions have no answer")
    )
    given = rows(out)
    assert [row["id"] for row in given] == [7, "b", 12, "last"]
    assert given[1]["question"] == LINES[1][0]["text"]
    for row in given:
        pictures = [Image.open(tmp_path / name) for name in row["image"]]
        assert (
            row["answer"] == chat.answer([(pictures, [{"role": "user", "content": row["question"]}])], 4)[0]
        )


def test_a_call_goes_on_where_it_was(
    ask: Ask, chat: ChatModel, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{**GOOD, "id": number} for number in range(7)]
    write_lines(questions, [*lines[:3], b"no JSON", *lines[3:]])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert ask("--file", questions, "--out", whole, "--batch-size", 2) == 2
    asked: list[int] = []
    answer = chat.answer_prompts

    def die_at_third(prompts: Any, *more: Any) -> list[str]:
        asked.append(len(prompts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(prompts, *more)

    monkeypatch.setattr(chat, "answer_prompts", die_at_third)
    assert ask("--file", questions, "--out", out, "--batch-size", 2) == 130
    assert out.read_bytes() == b"".join(whole.read_bytes().splitlines(keepends=True)[:4])
    out.write_bytes(out.read_bytes()[:-9])  # as a power cut would leave it
    assert ask("--file", questions, "--out", out, "--batch-size", 3) == 2
    assert asked == [2, 2, 2, 3, 1] and out.read_bytes() == whole.read_bytes()
    # The bad line is mended: it alone is asked, and stands where it belongs.
    write_lines(questions, [*lines[:3], {**GOOD, "id": "mended"}, *lines[3:]])
    assert ask("--file", questions, "--out", out) == 0
    assert asked[5:] == [1] and [row["id"] for row in rows(out)] == [0, 1, 2, "mended", 3, 4, 5, 6]
    assert ask("--file", questions, "--out", out) == 0 and asked[6:] == []


def test_answers_of_something_else_stay_as_they_are(
    ask: Ask, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mine = tmp_path / "answers.jsonl", tmp_path / "mine.txt"
    write_lines(questions, [GOOD])
    assert ask("--file", questions, "--out", out) == 0
    before = out.read_bytes()
    mine.write_text("my own\n")
    other = write_lines(tmp_path / "other.jsonl", [{**GOOD, "id": "else"}])
    changed = write_lines(tmp_path / "changed.jsonl", [{**GOOD, "question": "How few?"}])
    for words, named in (
        (
            ["--file", questions, "--out", out, "--temperature", 1],
            "made with another temperature (0.0, now 1.0)",
        ),
        (["--file", questions, "--out", out, "--system", "S"], "made with another system"),
        (["--file", other, "--out", out], "id 1 is not asked in"),
        (["--file", changed, "--out", out], "id 1 was answered for another question or picture"),
        (["--file", questions, "--out", mine], "mine.txt: is there already"),
        (["--file", questions, "--out", questions], "is the file of questions"),
        (["--file", questions], "expected --out FILE"),
        (["--file", tmp_path / "gone", "--out", out], "gone: no such file"),
        (["--out", out, "Who?"], "go with --file"),
    ):
        assert ask(*words) == 2
        assert named in capsys.readouterr().err.rstrip().split("\n")[-1]
    picture(9).save(tmp_path / "2.png")  # another picture by the same name
    assert ask("--file", questions, "--out", out) == 2
    assert out.read_bytes() == before and mine.read_text() == "my own\n"
    with (
        AnswerFile(tmp_path / "busy.jsonl", {}),
        pytest.raises(UserError, match="another process writes to it"),
    ):
        AnswerFile(tmp_path / "busy.jsonl", {})


def test_a_batch_that_is_too_large_is_halved(
    ask: Ask, chat: ChatModel, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_lines(questions, [{**GOOD, "id": number} for number in range(9)])
    assert ask("--file", questions, "--out", tmp_path / "whole.jsonl", "--temperature", 2, "--seed", 5) == 0
    generate, sizes, most = chat.model.generate, [], [2]

    def small(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate(**inputs)

    monkeypatch.setattr(chat.model, "generate", small)
    out = tmp_path / "answers.jsonl"
    words = ("--file", questions, "--out", out, "--temperature", 2, "--seed", 5, "--batch-size", 5)
    assert ask(*words) == 0
    assert sizes == [5, 3, 2, 1, 2, 2, 2] and out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert "not enough memory for 5 questions at a time; going on with 3" in capsys.readouterr().err
    out.unlink()
    most[0] = 0
    assert ask(*words) == 2
    told = capsys.readouterr().err
    assert (
        f"{questions}:9: not enough memory" in told
        and "9 questions have no answer" in told
        and not out.exists()
    )
    assert ask("Who?") == 2 and "error: not enough memory" in capsys.readouterr().err


def test_draws_of_a_file_follow_from_seed_and_line(ask: Ask, questions: Path, tmp_path: Path) -> None:
    write_lines(questions, [{**GOOD, "id": number} for number in range(6)])
    drawn = []
    for size in (1, 4):
        out = tmp_path / f"{size}.jsonl"
        assert (
            ask("--file", questions, "--out", out, "--batch-size", size, "--temperature", 2, "--seed", 5) == 0
        )
        drawn.append([row["answer"] for row in rows(out)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1


def test_where_pictures_are(questions: Path, tmp_path: Path) -> None:
    write_lines(questions, [GOOD])
    (question,) = read_questions(questions, tmp_path / "elsewhere")
    assert isinstance(question, Question)
    with pytest.raises(UserError, match=r"elsewhere/2\.png: No such file"):
        question.open()
    (question,) = read_questions(questions)
    assert isinstance(question, Question) and len(question.open()[0]) == 1


@pytest.mark.slow
def test_too_little_memory_is_one_line(model_folder: Path) -> None:
    """A process of its own that may have 1 GB of addresses: torch itself does not fit."""
    limit = 10**9
    ended = subprocess.run(
        [sys.executable, "-m", "vqrae.cli", "ask", str(model_folder), "Who?"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: not enough memory") and ended.stderr.count("\n") == 1
