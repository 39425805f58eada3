"""Which text of a sample is its caption.

What the recipe's `caption_column` names wins: a member's ending (`txt`, `law.txt`), else a key of the sample's JSON.
Where it names nothing, the standard places are read, in the order in which they stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from common.data import captions
from common.data.captions import ENDINGS, FIELDS, NO_JSON, NO_UTF8
from common.errors import UserError
from common.text import parse_json

MEMBERS = (*ENDINGS, "caption.txt")

Texts = Mapping[str, Callable[[], bytes]]
"""A sample's members that are no pictures: ending -> reads its content."""


class Place(NamedTuple):
    """Where a caption may stand: its name for the eye, the caption, or why what stands there is none."""

    name: str
    caption: str | None
    problem: str | None


def ending_of(place: str) -> str:
    """The ending that a `caption_column` may mean: `.TXT` -> `txt`."""
    return place.lower().removeprefix(".")


def caption_of(texts: Texts, stated: str | None) -> str | None:
    """A sample's caption; None where it has none, or one that is no text."""
    places = standard_places(texts) if stated is None else _named(texts, stated)
    return next((place.caption for place in places if place.caption), None)


def standard_places(texts: Texts) -> Iterator[Place]:
    """All that there are, read as they are asked for."""
    for ending in MEMBERS:
        if ending in texts:
            yield of_member(ending, texts[ending]())
    for ending in json_members(texts):
        record = record_of(texts[ending]())
        if record is None:
            yield Place(f".{ending}", None, NO_JSON)
        else:
            yield from (of_field(ending, record, field) for field in FIELDS if field in record)


def _named(texts: Texts, stated: str) -> Iterator[Place]:
    ending = ending_of(stated)
    if ending in texts and not is_json(ending):
        yield of_member(ending, texts[ending]())
        return
    for ending in json_members(texts):
        yield of_field(ending, record_of(texts[ending]()) or {}, stated)


def of_member(ending: str, content: bytes) -> Place:
    """The caption that a text member is."""
    try:
        return Place(f".{ending}", *captions.caption_of(content.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return Place(f".{ending}", None, NO_UTF8)


def of_field(ending: str, record: dict[str, Any], field: str) -> Place:
    """The caption under a key of a JSON member."""
    return Place(f"`{field}` in .{ending}", *captions.caption_of(record.get(field)))


def json_members(texts: Mapping[str, Any]) -> list[str]:
    """The endings of a sample's JSON members: `json` itself if it is there, else `info.json` and its like."""
    return ["json"] if "json" in texts else sorted(filter(is_json, texts))


def is_json(ending: str) -> bool:
    return ending.rpartition(".")[2] == "json"


def record_of(content: bytes) -> dict[str, Any] | None:
    """The object that a JSON member holds; None where it holds no JSON, an empty one where it holds another value."""
    try:
        value = parse_json(content, "", nan=True)
    except UserError:
        return None
    return value if isinstance(value, dict) else {}
