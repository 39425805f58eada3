"""What a user says to a model, and hears from it: all at once, piece by piece, and on the command line."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_chat import write_chat_model

from common.errors import UserError
from understanding.chat import ChatModel, Request, load
from vqrae.cli import dispatch


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model_folder(
    request: pytest.FixtureRequest, shelf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_chat_model(shelf, tmp_path_factory.mktemp("chat") / "model", request.param)


@pytest.fixture(scope="module")
def chat(model_folder: Path) -> ChatModel:
    return load(model_folder)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def ask(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


REQUESTS: list[Request] = [
    ([picture(0)], [ask("What color is the large triangle?")]),
    (
        [picture(1)],
        [ask("Describe it."), {"role": "assistant", "content": "A photo."}, ask("How many bowls are there?")],
    ),
    (
        [],
        [
            {"role": "system", "content": "You are a helpful assistant."},
            ask("Is there a red circle? Answer yes or no."),
        ],
    ),
    ([picture(2), picture(3)], [ask("<image>\nand <image>\n: which is red?")]),
]


def test_answers_do_not_depend_on_who_else_is_asked(chat: ChatModel) -> None:
    together = chat.answer(REQUESTS, max_new_tokens=8)
    alone = [chat.answer([request], max_new_tokens=8)[0] for request in REQUESTS]
    assert together == alone and len(set(together)) > 1
    assert not any("<image>" in answer for answer in together)
    assert chat.answer([]) == []


def test_a_stream_gives_the_same_text_in_pieces(chat: ChatModel) -> None:
    for images, messages in REQUESTS:
        pieces = list(chat.stream(images, messages, max_new_tokens=8))
        assert "".join(pieces).strip() == chat.answer([(images, messages)], max_new_tokens=8)[0]


def test_a_picture_is_seen(chat: ChatModel) -> None:
    one, other = (chat._inputs([([picture(seed)], [ask("What is it?")])]) for seed in (0, 1))
    assert torch.equal(one["input_ids"], other["input_ids"])
    with torch.inference_mode():
        assert not torch.allclose(chat.model(**one).logits[:, -1], chat.model(**other).logits[:, -1])


def test_the_prompt_is_the_one_of_training(chat: ChatModel) -> None:
    """Up to where the answer begins, token for token."""
    from understanding.conversation import encode, read_conversation

    text = "What color is the large triangle?"
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "green"}]
    record = {"id": 1, "image": "a.png", "conversations": turns}
    encoded = encode(read_conversation(record), chat.processor.tokenizer, 16, 200)
    asked = chat._inputs([([picture(0)], [ask(text)])])["input_ids"][0].tolist()
    start = int(encoded.learned.argmax())
    assert asked == encoded.ids[:start].tolist()


def test_a_failure_while_streaming_is_not_lost(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chat.stream([], [ask("Who?")]))


def test_what_cannot_be_asked(chat: ChatModel) -> None:
    with pytest.raises(UserError, match="2 <image> for 1 pictures"):
        chat.answer([([picture(0)], [ask("<image> and <image>")])])
    with pytest.raises(UserError, match="does not fit the model's template"):
        chat.answer([([], [{"role": "nobody", "content": "?"}])])
    with pytest.raises(UserError, match="max_new_tokens: expected 1 or more"):
        chat.answer(REQUESTS, max_new_tokens=0)
    with pytest.raises(UserError, match="temperature: expected 0 or more"):
        chat.answer(REQUESTS, temperature=-1.0)
    torch.manual_seed(0)
    assert len({chat.answer(REQUESTS[:1], 8, temperature=2.0)[0] for _ in range(4)}) > 1


def test_models_that_do_not_answer(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "gone")
    with pytest.raises(UserError, match="model_type: expected 'llava', found 'vqrae'"):
        load(shelf / "vqrae")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        load(tmp_path / "empty")


def test_one_question_on_the_command_line(
    model_folder: Path, chat: ChatModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(0).save(tmp_path / "photo.png")
    arguments = ["ask", str(model_folder), str(tmp_path / "photo.png"), "What is it?"]
    dispatch([*arguments, "--max-new-tokens", "8", "--device", "cpu"])
    expected = chat.answer([([picture(0)], [ask("What is it?")])], max_new_tokens=8)[0]
    assert capsys.readouterr().out.strip() == expected
    (tmp_path / "photo.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"photo\.png"):
        dispatch(arguments)
    with pytest.raises(UserError, match=r"gone\.png"):
        dispatch(["ask", str(model_folder), str(tmp_path / "gone.png"), "What is it?"])


def test_a_talk_on_the_command_line(
    model_folder: Path,
    chat: ChatModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in (0, 1):
        picture(seed).save(tmp_path / f"{seed}.png")
    lines: Iterator[str] = iter(
        [
            "What is it?",
            "",
            "How many?",
            "/image gone.png",
            "/nonsense",
            f"/image {tmp_path / '1.png'}",
            "How many?",
        ]
    )

    def type_next(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None  # Ctrl-D

    monkeypatch.setattr(builtins, "input", type_next)
    dispatch(["chat", str(model_folder), str(tmp_path / "0.png"), "--max-new-tokens", "8", "--device", "cpu"])
    seen = capsys.readouterr()
    first = chat.answer([([picture(0)], [ask("What is it?")])], 8)[0]
    history = [ask("What is it?"), {"role": "assistant", "content": first}, ask("How many?")]
    second = chat.answer([([picture(0)], history)], 8)[0]
    third = chat.answer([([picture(1)], [ask("How many?")])], 8)[0]
    written = [line.strip() for line in seen.out.split("\n", 1)[1].strip().split("\n")]
    assert [text for text in (first, second, third) if text in "\n".join(written)] == [first, second, third]
    assert "gone.png" in seen.err and "/nonsense: unknown" in seen.err
