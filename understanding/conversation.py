"""From a record to token ids and what is learned of them.

The learned part is read off the chat template's generation marks, through the offsets of one tokenisation of the
whole text: nothing is ever tokenised twice and compared. A record that cannot be trained on is a `BadSample`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import LONGEST, FailedRead, UserError, one_line, out_of_memory
from understanding.layouts import USUAL, BadSample, Fields, Picture, read_layout
from understanding.templates import IMAGE_TOKEN

if TYPE_CHECKING:  # transformers takes seconds to load
    from transformers import PreTrainedTokenizerFast

__all__ = ["BadSample", "Conversation", "Encoded", "encode", "encode_all", "questions", "read_conversation"]


@dataclass(frozen=True)
class Conversation:
    """What a record says.

    Args:
        images: paths, URLs or encoded pictures, in the order of their placeholders.
        messages: `role` (system, user or assistant) and `content`, which holds an `<image>` for every image; where
            there is none, `<image>` is a word like others.
        unmentioned: no message of the record mentioned its images.
        unread: the fields of the record that hold something and are not read.
    """

    id: str
    images: tuple[Picture, ...]
    messages: tuple[dict[str, str], ...]
    unmentioned: bool = False
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """Token ids, int64 (N,), image placeholders expanded; and which of them are learned, bool (N,)."""

    ids: np.ndarray
    learned: np.ndarray


def read_conversation(record: Any, fields: Fields = USUAL) -> Conversation:
    """The conversation of one record, of any layout that `layouts` knows.

    What LLaVA trains on is trained on in its way (decision 18): a first answer that nothing asks for is dropped, and a
    message that mentions a single image begins with it, once. Images that no message mentions stand before the first
    question.

    Raises:
        BadSample: not of a known layout, roles unknown or out of turn, or placeholders that do not match the images.
    """
    told = read_layout(record, fields)
    images = tuple(told.images)
    system, messages = _split_system(told.messages, bool(images))
    if messages and messages[0]["role"] == "assistant":
        messages = messages[1:]
    _check_turns(messages)
    if len(images) == 1:
        messages = [_image_first(message) for message in messages]
    placeholders = sum(message["content"].count(IMAGE_TOKEN) for message in messages)
    unmentioned = bool(images) and not placeholders
    if unmentioned:
        messages[0] = _with_images(messages[0], len(images))
    elif images and placeholders != len(images):
        more = "more" if placeholders > len(images) else "fewer"
        raise BadSample(f"{more} image placeholders than images", f"{placeholders} for {len(images)}")
    unread = tuple(dict.fromkeys(told.unread))
    return Conversation(told.id, images, (*system, *messages), unmentioned, unread)


def questions(messages: Sequence[dict[str, str]]) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Each question with the true turns before it, as a model is asked, and its true answer."""
    for place, turn in enumerate(messages):
        if turn["role"] == "assistant":
            yield list(messages[:place]), turn["content"]


def _split_system(
    messages: list[dict[str, str]], with_images: bool
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    number = 1 if messages[0]["role"] == "system" else 0
    if with_images and any(IMAGE_TOKEN in message["content"] for message in messages[:number]):
        raise BadSample("an image placeholder in the system's text")
    return messages[:number], messages[number:]


def _check_turns(messages: list[dict[str, str]]) -> None:
    if len(messages) < 2:
        raise BadSample("empty conversation" if not messages else "no answer")
    for number, message in enumerate(messages):
        if message["role"] != ("user", "assistant")[number % 2]:
            raise BadSample("turns do not alternate", f"turn {number + 1} is {message['role']}'s")


def _image_first(message: dict[str, str]) -> dict[str, str]:
    if IMAGE_TOKEN not in message["content"]:
        return message
    return _with_images({**message, "content": message["content"].replace(IMAGE_TOKEN, "")}, 1)


def _with_images(message: dict[str, str], count: int) -> dict[str, str]:
    return {**message, "content": (f"{IMAGE_TOKEN}\n" * count + message["content"].strip()).strip()}


def encode(
    conversation: Conversation, text_tokenizer: PreTrainedTokenizerFast, image_tokens: int, max_length: int
) -> Encoded:
    """Lay a conversation out with the template of `text_tokenizer` (see `text_tokenizer`).

    Args:
        image_tokens: tokens of one image. max_length: text beyond is cut from the end, the end token of a cut answer
            with it; image tokens never are.

    Raises:
        BadSample: the template refuses it, its images do not fit, or nothing that is learned is left.
    """
    (result,) = encode_all([conversation], text_tokenizer, image_tokens, max_length)
    if isinstance(result, BadSample):
        raise result
    return result


def encode_all(
    conversations: Sequence[Conversation],
    text_tokenizer: PreTrainedTokenizerFast,
    image_tokens: int,
    max_length: int,
) -> list[Encoded | BadSample]:
    """`encode` of many at once, which a fast tokenizer does on all cores."""
    from understanding.text_tokenizer import without_images

    kinds: dict[bool, list[int]] = {}
    for place, conversation in enumerate(conversations):
        kinds.setdefault(_mentions_no_picture(conversation), []).append(place)
    results: dict[int, Encoded | BadSample] = {}
    for no_picture, places in kinds.items():
        suited = without_images(text_tokenizer) if no_picture else text_tokenizer
        alike = [conversations[place] for place in places]
        results |= zip(places, _encode_alike(alike, suited, image_tokens, max_length), strict=True)
    return [results[place] for place in range(len(conversations))]


def _mentions_no_picture(conversation: Conversation) -> bool:
    """Whether `<image>` is a word in it."""
    return not conversation.images and any(IMAGE_TOKEN in turn["content"] for turn in conversation.messages)


def _encode_alike(
    conversations: Sequence[Conversation],
    text_tokenizer: PreTrainedTokenizerFast,
    image_tokens: int,
    max_length: int,
) -> list[Encoded | BadSample]:
    try:
        batch = text_tokenizer.apply_chat_template(
            [list(conversation.messages) for conversation in conversations],
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except Exception as error:  # the template refuses one of them, or a library meets what it cannot take
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        if len(conversations) == 1:
            return [_refused(error)]
        middle = len(conversations) // 2
        return [
            result
            for half in (conversations[:middle], conversations[middle:])
            for result in _encode_alike(half, text_tokenizer, image_tokens, max_length)
        ]
    image_id = text_tokenizer.get_added_vocab().get(IMAGE_TOKEN, -1)
    controls = _control_tokens(text_tokenizer)
    results: list[Encoded | BadSample] = []
    for conversation, ids, learned in zip(
        conversations, batch["input_ids"], batch["assistant_masks"], strict=True
    ):
        try:
            _check_text(conversation, controls)
            results.append(
                _fit(np.array(ids), np.array(learned, bool), image_id, conversation, image_tokens, max_length)
            )
        except BadSample as problem:
            results.append(problem)
    return results


def _refused(error: Exception) -> BadSample:
    from jinja2 import TemplateError

    if isinstance(error, TemplateError):
        return BadSample("refused by the template", one_line(error))
    return refused(error)


def refused(error: Exception) -> BadSample:
    return BadSample("refused by a library", f"{type(error).__name__}: {one_line(error)}"[:LONGEST])


@contextmanager
def last_net() -> Iterator[None]:
    """Inside, what a library raises in its own way for a single sample, or bytes that cannot be had now, cost that
    sample: they become a `BadSample`."""
    try:
        yield
    except FailedRead as error:
        raise BadSample("bytes that could not be had", str(error)) from error
    except (BadSample, UserError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise refused(error) from error


def _check_text(conversation: Conversation, controls: re.Pattern[str]) -> None:
    """A control token that is written out in a text would end a turn there, or open one."""
    for message in conversation.messages:
        if found := controls.search(message["content"]):
            raise BadSample("a control token in the text", found[0])


def _control_tokens(text_tokenizer: PreTrainedTokenizerFast) -> re.Pattern[str]:
    """All but the image's, and the one that begins a text, which LLaVA trains on wherever it stands."""
    harmless = (IMAGE_TOKEN, text_tokenizer.bos_token)
    return _either(
        tuple(
            token.content
            for token in text_tokenizer.added_tokens_decoder.values()
            if token.special and token.content not in harmless
        )
    )


@lru_cache
def _either(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def _fit(
    ids: np.ndarray,
    learned: np.ndarray,
    image_id: int,
    conversation: Conversation,
    image_tokens: int,
    max_length: int,
) -> Encoded:
    """Expand the placeholders, and cut text until it fits."""
    images = len(conversation.images)
    if np.count_nonzero(ids == image_id) != images:
        raise BadSample("the template drops or doubles images")
    if images * image_tokens >= max_length:
        raise BadSample(
            "the images do not fit", f"{images} x {image_tokens} tokens leave no room in {max_length}"
        )
    learned &= ids != image_id  # which may stand in an answer
    if not learned.any():
        raise BadSample("empty answer", "there is no other")
    repeats = np.where(ids == image_id, image_tokens, 1)
    ids, learned = np.repeat(ids, repeats), np.repeat(learned, repeats)
    length = len(ids)
    if length > max_length:
        text = np.flatnonzero(ids != image_id)
        cut = text[len(text) - (length - max_length) :]
        ids, learned = np.delete(ids, cut), np.delete(learned, cut)
    if not learned.any():
        raise BadSample("nothing left to learn", f"the answers start beyond max_length, {max_length} tokens")
    return Encoded(ids, learned)
