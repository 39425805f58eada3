"""What one record says, whatever its layout: LLaVA's, ShareGPT's, OpenAI's messages, the Cauldron's pairs.

What is notable here: a picture is never lost in silence. A record names its pictures under one of `PICTURES` (or the
field that the recipe names); one that seems to have them under another name, or that has a video or a sound, is left
out. All other fields that hold something and are not read are told, so that they can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from common.data.images import EXTENSIONS
from common.data.inline import inline_picture
from common.errors import UserError
from common.text import checked
from understanding.templates import IMAGE_TOKEN

Picture = str | bytes
"""A path or URL as the record has it, or the encoded picture itself."""

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant", "bing": "assistant", "bard": "assistant", "system": "system",
    "developer": "system",
}  # fmt: skip
TURNS = ("conversations", "conversation", "messages", "texts")
PICTURES = (
    "image", "images", "image_path", "image_paths", "image_file", "image_files", "image_url", "image_urls",
    "img", "imgs", "img_path", "picture", "pictures",
)  # fmt: skip
OTHER_MEDIA = (
    "video",
    "videos",
    "video_path",
    "video_paths",
    "video_file",
    "audio",
    "audios",
    "audio_path",
    "sound",
)
_SHOWN = 100  # characters of a value in a reason
_PICTURE_NAME = re.compile(rf"\.({'|'.join(sorted(suffix[1:] for suffix in EXTENSIONS))})$", re.IGNORECASE)


class BadSample(Exception):
    """A sample that is left out. `reason` is what samples are counted by; `detail` is about this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Fields:
    """The fields that a recipe names: of the pictures, and of the turns. None takes the usual names."""

    pictures: str | None = None
    turns: str | None = None


USUAL = Fields()


@dataclass
class Told:
    """What a record says, in its own order.

    Args:
        messages: `role` (system, user or assistant) and `content`.
        unread: names of fields that hold something and are not read.
    """

    id: str
    images: list[Picture]
    messages: list[dict[str, str]]
    unread: list[str] = field(default_factory=list)


def read_layout(record: Any, fields: Fields = USUAL) -> Told:
    """Raises:
    BadSample: not of a known layout, no turns, texts that are none, or pictures that are not looked at here.
    """
    if isinstance(record, BadSample):  # that its source could not give
        raise record
    if not isinstance(record, dict):
        raise BadSample("not a record", f"expected a mapping, found {type(record).__name__}")
    turns_field = _only(record, TURNS, fields.turns, "conversations")
    pictures_field = _only(record, PICTURES, fields.pictures, "pictures")
    told = Told(_text(record.get("id")), _pictures(record.get(pictures_field or "")), [])
    within: list[Picture] = []  # pictures that the messages hold themselves
    for turn in _turns(record.get(turns_field or "")):
        told.messages += _messages(turn, turns_field or "", within, told.unread)
    _take_system(record, told)
    if within and told.images:
        raise BadSample("pictures in the messages and beside them", pictures_field or "")
    told.images = told.images or within
    read = {"id", "system", turns_field, pictures_field}
    told.unread += _left(record, read, "", known_pictures=bool(told.images) or fields.pictures is not None)
    return told


def _only(record: dict[str, Any], usual: tuple[str, ...], named: str | None, what: str) -> str | None:
    """The field that holds something; None if there is none."""
    if named is not None:
        return named
    found = [name for name in usual if _given(record.get(name))]
    if len(found) > 1 and any(record[name] != record[found[0]] for name in found[1:]):
        raise BadSample(f"{what} under several names", ", ".join(found))
    return found[0] if found else None


def _given(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != {}


def _left(record: dict[str, Any], read: set[str | None], prefix: str, known_pictures: bool) -> Iterator[str]:
    """The fields of a record or a turn that hold something and are not read.

    Raises:
        BadSample: one of them is a medium that ought to be looked at.
    """
    for name, value in record.items():
        if name in read or not _given(value):
            continue
        shown = f"{prefix}{_name(name)}"
        if name in OTHER_MEDIA:
            raise BadSample("a video or a sound, which are not read", shown)
        if not known_pictures and (name in PICTURES or _seems_picture(value)):
            raise BadSample("a picture under a name that is not read", shown)
        yield shown


def _seems_picture(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and _seems_picture(value[0])
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes)
    if not isinstance(value, str):
        return isinstance(value, bytes)
    return value[:11].lower() == "data:image/" or (len(value) < 4096 and bool(_PICTURE_NAME.search(value)))


def _turns(value: Any) -> list[Any]:
    if isinstance(value, dict):  # a list of structs, as tables may lay it out: one list a field
        columns = [column for column in value.values() if isinstance(column, list)]
        if len(columns) == len(value) and len({len(column) for column in columns}) == 1:
            value = [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(value, list) or not value:
        raise BadSample("empty conversation")
    return value


def _messages(turn: Any, where: str, within: list[Picture], unread: list[str]) -> Iterator[dict[str, str]]:
    """The one message of a turn, or the question and the answer of a pair."""
    if isinstance(turn, BadSample):
        raise turn
    if not isinstance(turn, dict):
        raise BadSample("not a turn", f"expected a mapping of from and value, found {type(turn).__name__}")
    if {"user", "assistant"} <= turn.keys():
        yield {"role": "user", "content": _content(turn["user"], within)}
        yield {"role": "assistant", "content": _content(turn["assistant"], within)}
        unread += _left(turn, {"user", "assistant"}, f"{where}.", known_pictures=False)
        return
    speaker = turn.get("role") if turn.get("from") is None else turn["from"]
    value = turn.get("content") if turn.get("value") is None else turn["value"]
    role = ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise BadSample("unknown role", _shown(speaker))
    yield {"role": role, "content": _content(value, within)}
    unread += _left(turn, {"from", "role", "value", "content"}, f"{where}.", known_pictures=False)


def _content(value: Any, within: list[Picture]) -> str:
    """A text, or the parts that OpenAI's messages are made of; their pictures go into `within`."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        text = "".join(_part(part, within) for part in value)
        return text.removesuffix("\n") if text.endswith(f"{IMAGE_TOKEN}\n") else text
    if not isinstance(value, str):
        raise BadSample("a message without text", _shown(value))
    return _clean(value)


def _part(part: dict[str, Any], within: list[Picture]) -> str:
    kind = part.get("type")
    if kind in ("text", "input_text"):
        if not isinstance(part.get("text"), str):
            raise BadSample("a message without text", _shown(part.get("text")))
        return _clean(part["text"])
    if kind not in ("image", "image_url", "input_image"):
        raise BadSample("a part of a message that is neither text nor picture", _shown(kind))
    for name in ("image_url", "image", "url", "path"):
        if _given(part.get(name)):
            within.append(_picture(part[name]))
            break
    return f"{IMAGE_TOKEN}\n"  # else it stands for the next one of those beside the messages


def _take_system(record: dict[str, Any], told: Told) -> None:
    """ShareGPT's system text, which stands beside the turns."""
    system = record.get("system")
    if not isinstance(system, str) or not system:
        if _given(system):
            told.unread.append("system")
        return
    if told.messages[0]["role"] == "system":
        raise BadSample("two system texts")
    told.messages.insert(0, {"role": "system", "content": _clean(system)})


def _clean(text: str) -> str:
    try:
        return checked(text, "a message")
    except UserError as error:
        raise BadSample("text that is none", str(error)) from error


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:_SHOWN]


def _pictures(value: Any) -> list[Picture]:
    if isinstance(value, list):
        return [_picture(each) for each in value]
    return [_picture(value)] if _given(value) else []


def _picture(value: Any) -> Picture:
    """Of a path, a URL, a data URI, base64, encoded bytes, or one of these in a mapping, as tables have it."""
    if isinstance(value, dict):
        names = ("bytes", "path", "url", "image")
        value = next((value[name] for name in names if _given(value.get(name))), value)
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadSample("image is no path", _shown(value))
    inline = inline_picture(value)
    return value if inline is None else inline  # empty where it is damaged, which its reader finds


def _shown(value: Any) -> str:
    return ascii(value[:_SHOWN] if isinstance(value, (str, bytes)) else value)[:_SHOWN]


def _name(field_name: Any) -> str:
    return str(field_name)[:_SHOWN].encode("ascii", "backslashreplace").decode()
