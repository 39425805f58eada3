"""Captions as others wrote them: under which names they stand, and which of them can be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.errors import UserError
from common.text import BYTE_ORDER_MARK, flaw

FIELDS = ("caption", "text", "prompt")
"""Of the field, key or column with captions, if the recipe names none: img2dataset's, Hugging Face's, JourneyDB's."""
ENDINGS = ("txt", "caption", "cap")
"""Of texts beside a picture: img2dataset's and kohya's."""

NO_TEXT = "captions that are no text (numbers, objects)"
NO_UNICODE = "captions that are no valid Unicode, or hold a NUL"
NO_UTF8 = "captions that are no UTF-8"
NO_FILE = "captions in files that cannot be read"
NO_JSON = "captions in JSON that cannot be read"


def caption_of(value: Any) -> tuple[str | None, str | None]:
    """(A caption, None), or (None, why what stands there is none): a reason under which they are counted.

    Blanks around it are cut; nothing but blanks, or null, is no caption, and (None, None). Of several, in a list, it is
    the first that can be used.
    """
    if isinstance(value, list):
        found = [(None, NO_TEXT) if isinstance(part, list) else caption_of(part) for part in value]
        return next((each for each in found if each[0]), found[0] if found else (None, None))
    if value is None:
        return None, None
    if not isinstance(value, str):
        return None, NO_TEXT
    if flaw(value):
        return None, NO_UNICODE
    return value.removeprefix(BYTE_ORDER_MARK).strip() or None, None


def caption_of_bytes(content: bytes) -> tuple[str | None, str | None]:
    """The same for a text as it lies in a file, in UTF-8, with or without a byte order mark."""
    try:
        return caption_of(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, NO_UTF8


def field_of_captions(present: Iterable[str], named: str | None, where: object) -> str | None:
    """Which of the fields that are there holds captions; None where none of `FIELDS` does.

    Args:
        named: the recipe's `caption_column`, which wins.
        where: for errors: `FILE: ` what the fields are of.

    Raises:
        UserError: the one that is named is not there; or none is named, and there are several.
    """
    there = list(present)
    if named is not None:
        if named not in there:
            raise UserError(
                f"{where}: caption_column: no {named!r} there, found {', '.join(there) or 'nothing'}"
            )
        return named
    found = [field for field in FIELDS if field in there]
    if len(found) > 1:
        raise UserError(
            f"{where}: captions may be {' or '.join(found)}: caption_column must name one of them"
        )
    return found[0] if found else None
