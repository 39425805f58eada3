"""What is said to a model, brought into one form: turns of content parts, and their pictures in order.

What is notable here: a text is only ever text. Where a picture stands is said by parts (`{"type": "image"}`, as
transformers and OpenAI send them) and by nothing that could be typed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from common.data.images import MAX_ASPECT, CorruptImage, open_image
from common.errors import UserError, refusing
from common.text import BYTE_ORDER_MARK, flaw
from understanding.templates import IMAGE_TOKEN

Part = Mapping[str, Any]
"""`{"type": "text", "text": ...}`; or a picture: `{"type": "image"}`, which takes the next one given beside the turns,
`{"type": "image", "image": ...}` (opened by Pillow, or a path; `path` and `url` are read like it), or OpenAI's
`{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`. Nothing is downloaded."""

Message = Mapping[str, Any]
"""`role` (system, user or assistant) and `content`, a text or a list of `Part`."""

Request = tuple[Sequence[Image.Image], Sequence[Message]]
"""Pictures, and the turns so far, the last one the user's."""

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


def placed(messages: Sequence[Mapping[str, str]]) -> list[Message]:
    """Turns whose texts hold `<image>` where a picture stands, as LLaVA's records have them, as turns of parts."""
    return [{**message, "content": _placed(message["content"])} for message in messages]


def _placed(text: str) -> list[Part]:
    before, *others = text.split(IMAGE_TOKEN)
    parts: list[Part] = [{"type": "text", "text": before}]
    for other in others:
        # Chat templates write the newline behind a picture themselves.
        parts += [{"type": "image"}, {"type": "text", "text": other.removeprefix("\n")}]
    return [part for part in parts if part.get("text") != ""]


def read_turns(
    images: Sequence[Image.Image], messages: Sequence[Message]
) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    """All pictures as upright RGB, in the order in which they stand, and the turns with a list of parts each.

    `images` take the places of the parts that bring no picture; without such parts they stand before the first
    question.

    Raises:
        UserError: a text, a part or a picture that cannot be used, or places and pictures that differ in number.
    """
    waiting = iter(images)
    pictures: list[Image.Image] = []
    turns: list[dict[str, Any]] = []
    places = 0
    for number, message in enumerate(messages, 1):
        content: list[dict[str, Any]] = []
        with refusing(f"turn {number}" if len(messages) > 1 else "the question", UserError):
            for part in _parts(message):
                if part["type"] == "text":
                    content.append({"type": "text", "text": checked_text(part.get("text"))})
                    continue
                source = _source(part)
                places += source is None
                source = next(waiting, None) if source is None else source
                if source is not None:
                    pictures.append(read_picture(source))
                    content.append({"type": "image"})
        turns.append({"role": message.get("role"), "content": content})
    if images and not places:
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise UserError("a conversation with pictures has no question")
        first["content"] = [*({"type": "image"} for _ in images), *first["content"]]
        pictures = [*map(read_picture, images), *pictures]
    elif places != len(images):
        raise UserError(f"a conversation has {places} places for {len(images)} pictures")
    return pictures, turns


def read_picture(source: Any, where: object = None) -> Image.Image:
    """A picture as upright RGB, as training reads it.

    Args:
        source: opened by Pillow, a path, or encoded bytes. where: what errors begin with, in place of the path.

    Raises:
        UserError: it cannot be read, or is so thin that padding it to a square would be huge.
    """
    where = where or (source if isinstance(source, str | Path) else "a picture")
    with refusing(where, CorruptImage):
        picture = open_image(source)
    short, long = sorted(picture.size)
    if long > MAX_ASPECT * short:
        raise UserError(f"{where}: {picture.width} x {picture.height} pixels, sides over {MAX_ASPECT}:1")
    return picture


def checked_text(text: Any) -> str:
    """`text`, without a byte order mark in front.

    Raises:
        UserError: it is none, or holds what is no character (half of a surrogate pair, NUL).
    """
    if not isinstance(text, str):
        raise UserError(f"expected text, found {type(text).__name__}")
    if found := flaw(text):
        raise UserError(found)
    return text.removeprefix(BYTE_ORDER_MARK)


def _parts(message: Message) -> Iterator[Part]:
    content = message.get("content")
    if isinstance(content, str):
        # Blanks around are cut, as from training's: tokenizers would join them with the template's own.
        content = [{"type": "text", "text": checked_text(content).strip()}]
    if not isinstance(content, Sequence):
        raise UserError(f"content: expected text or a list of parts, found {type(content).__name__}")
    empty = message.get("role") == "user"
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "image", "image_url"):
            raise UserError(
                f"content: expected parts of type text, image or image_url, found {str(part)[:60]!r}"
            )
        empty = empty and kind == "text" and not part.get("text")
        yield part
    if empty:
        raise UserError("nothing is asked")


def _source(part: Part) -> Any:
    """The picture that a part brings; None if it has the next of those given beside the turns."""
    source = next(
        (part[key] for key in ("image", "path", "url", "image_url") if part.get(key) is not None), None
    )
    if isinstance(source, Mapping):
        source = source.get("url")
    if not isinstance(source, str):
        return source
    if prefix := DATA_URL.match(source):
        with refusing("image_url: no base64", ValueError):
            return base64.b64decode(source[prefix.end() :], validate=True)
    if "://" in source or part["type"] == "image_url":
        raise UserError(
            f"{part['type']}: nothing is downloaded: {source[:60]}; send it as data:image/...;base64,..."
        )
    return source
