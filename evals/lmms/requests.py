"""lmms-eval's requests as questions with pictures, to the last byte as its own `llava` puts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmms_eval.api.instance import Instance
from lmms_eval.protocol import ChatMessages
from PIL import Image

from common.errors import UserError, refusing
from understanding.chat.turns import read_picture
from understanding.templates import IMAGE_TOKEN

LENGTH = 1024  # tokens of an answer where a task names no number, as `llava` has it


class Question(NamedTuple):
    """A conversation, the user's turn last, whose texts hold `<image>` for each picture; and how to answer it.

    `settings` are `max_new_tokens` and `temperature`, where 0 takes the likeliest token each time.
    """

    pictures: list[Image.Image]
    turns: list[dict[str, str]]
    settings: dict[str, Any]


def read_request(request: Instance, documents: Mapping[str, Any]) -> Question:
    """What a request asks.

    A task that has pictures and a text is asked as lmms-eval's `llava` asks: all pictures in front, a space between
    them and a line break behind, then the text as it is. `doc_to_messages` is for tasks that have nothing else: of
    MMMU, it loses text, and leaves a switch of the task's module set behind.

    Args:
        documents: the framework's data sets, by task and split.

    Raises:
        UserError: a picture that cannot be read, or video or sound.
    """
    context, doc_to_messages, kwargs, doc_id, task, split = request.args
    document, asked = documents[task][split][doc_id], doc_to_messages.__self__
    where = f"{task}: question {doc_id}"
    if asked.config.doc_to_visual is None and asked.config.doc_to_messages is not None:
        return Question(*_read_messages(doc_to_messages(document), where), settings_of(kwargs))
    visuals = (asked.doc_to_visual(document) or []) if asked.config.doc_to_visual is not None else []
    parts = (
        ChatMessages(messages=asked._build_user_turn([one for one in visuals if one], "")).messages[0].content
    )
    pictures = [_picture(part, where) for part in parts[:-1]]
    # As many placeholders as pictures say where these belong; others of the data set's own have no picture of ours.
    if context.count(IMAGE_TOKEN) != len(pictures):
        context = context.replace(IMAGE_TOKEN, "")
    if pictures and IMAGE_TOKEN not in context:
        context = " ".join([IMAGE_TOKEN] * len(pictures)) + "\n" + context
    return Question(pictures, [{"role": "user", "content": context}], settings_of(kwargs))


def _read_messages(messages: Any, where: str) -> tuple[list[Image.Image], list[dict[str, str]]]:
    """Conversations as lmms-eval's chat protocol has them."""
    pictures: list[Image.Image] = []
    turns: list[dict[str, str]] = []
    for message in ChatMessages(messages=messages).messages:
        parts = []
        for part in message.content:
            if part.type == "text":
                # A placeholder of the data set's own has no picture of ours.
                parts.append(part.text.replace(IMAGE_TOKEN, "").strip())
            else:
                pictures.append(_picture(part, where))
                parts.append(IMAGE_TOKEN)
        turns.append({"role": message.role, "content": "\n".join(part for part in parts if part)})
    return pictures, turns


def _picture(part: Any, where: str) -> Image.Image:
    if part.type != "image":
        raise UserError(f"{where}: {part.type} is not supported; pictures and text are")
    return read_picture(part.url if isinstance(part.url, Image.Image) else Path(part.url))


def settings_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """How to generate, from a task's `generation_kwargs`; greedy unless it says otherwise.

    Answers end where the model ends them, and are not cut at the strings of `until`: `llava` does not cut them either.

    Raises:
        UserError: beams, which the model's chat does not search.
    """
    if (asked.get("num_beams") or 1) != 1:
        raise UserError(f"generation_kwargs: num_beams: expected 1, found {asked['num_beams']}")
    drawn = asked.get("do_sample") is not False
    return {
        "max_new_tokens": int(asked.get("max_new_tokens") or LENGTH),
        "temperature": float(asked.get("temperature") or 0.0) if drawn else 0.0,
    }


def render(processor: Any, question: Question, chat_template: str | None = None) -> str:
    """The question's text as the model reads it, `<image>` where pictures stand.

    Args:
        chat_template: in place of the processor's.

    Raises:
        UserError: the model's chat template does not take it.
    """
    settings = {"add_generation_prompt": True, "tokenize": False, "chat_template": chat_template}
    with refusing("a question does not fit the model's chat template"):
        try:
            text = processor.apply_chat_template(question.turns, **settings)
            if text.count(IMAGE_TOKEN) == len(question.pictures):
                return str(text)
        except Exception as error:  # whatever a template does with a text where it expects parts
            if not question.pictures:
                raise error
        return str(processor.apply_chat_template([_in_parts(turn) for turn in question.turns], **settings))


def _in_parts(turn: Mapping[str, str]) -> dict[str, Any]:
    """For templates that take nothing else; they write what stands behind a picture themselves."""
    text = turn["content"]
    pictures = [{"type": "image"}] * text.count(IMAGE_TOKEN)
    return {**turn, "content": [*pictures, {"type": "text", "text": text.replace(IMAGE_TOKEN, "").lstrip()}]}
