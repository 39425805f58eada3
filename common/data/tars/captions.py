"""Which text of a sample is its caption.

What the recipe's `caption_column` names wins: a member's ending (`txt`, `caption.txt`), else a key of the sample's
JSON. Where it names nothing, the standard places are read, in the order in which they stand here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.errors import UserError
from common.text import checked

MEMBERS = ("txt", "caption.txt", "caption", "cap")
FIELDS = ("caption", "prompt", "text")

Texts = Mapping[str, Callable[[], bytes]]
"""A sample's members that are no pictures: ending -> reads its content."""


def ending_of(place: str) -> str:
    """The ending that a `caption_column` may mean: `.TXT` -> `txt`."""
    return place.lower().removeprefix(".")


def caption_of(texts: Texts, stated: str | None) -> str | None:
    """A sample's caption; None where it has none, or one that is no text."""
    if stated is None:
        return next((caption for _, caption in standard_places(texts)), None)
    ending = ending_of(stated)
    if ending in texts and not _is_json(ending):
        return text_of(texts[ending]())
    records = (parsed(texts[ending]()) for ending in json_members(texts))
    return next((caption for record in records if (caption := usable(record.get(stated)))), None)


def standard_places(texts: Texts) -> Iterator[tuple[str, str]]:
    """(place, caption) of every standard place that has one, read as they are asked for."""
    for ending in MEMBERS:
        if ending in texts and (caption := text_of(texts[ending]())):
            yield f".{ending}", caption
    for ending in json_members(texts):
        record = parsed(texts[ending]())
        for field in FIELDS:
            if caption := usable(record.get(field)):
                yield f"`{field}` in .{ending}", caption


def holds_caption(ending: str, read: Callable[[], bytes]) -> bool:
    """Whether a member stands in a standard place, be it usable or not."""
    if not _is_json(ending):
        return ending in MEMBERS
    content = read()
    return any(isinstance(parsed(content).get(field), str) for field in FIELDS) or not _is_valid(content)


def json_members(texts: Mapping[str, Any]) -> list[str]:
    """The endings of a sample's JSON members: `json` itself if it is there, else `info.json` and its like."""
    return ["json"] if "json" in texts else sorted(filter(_is_json, texts))


def _is_json(ending: str) -> bool:
    return ending.lower().rpartition(".")[2] == "json"


def parsed(content: bytes) -> dict[str, Any]:
    """The object that a JSON member holds; an empty one where it holds none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_valid(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def usable(value: Any) -> str | None:
    """The text of a JSON value: a string, or the first that can be used of a list of them."""
    if isinstance(value, list):
        return next((text for part in value if isinstance(part, str) and (text := _checked(part))), None)
    return _checked(value) if isinstance(value, str) else None


def text_of(content: bytes) -> str | None:
    """The text of a member; None where it is empty or none."""
    try:
        return _checked(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None


def _checked(text: str) -> str | None:
    try:
        return checked(text, "caption").strip() or None
    except UserError:
        return None
