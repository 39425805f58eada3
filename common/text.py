"""Text that comes in: the one border for prompts, captions, questions and JSON, wherever they stand.

What is notable here: in a file only `\n` ends a line (`\r\n` is taken for it), since a prompt may hold any other of
Unicode's separators; and what could not be written down again, half of a surrogate pair or an argument's bytes that
are no UTF-8, is found before anything is done with it. What a user typed is then refused; in data it costs the one
caption or record, which is counted (`flaw` says why). No other text is changed: nothing is normalised.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError, refusing

BYTE_ORDER_MARK = "\ufeff"
SHOWN = 40  # characters of a text in an error


def flaw(text: str) -> str | None:
    """Why `text` cannot be used: it is no valid Unicode, or holds a NUL; None if it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"character {error.start + 1} is no valid Unicode (bytes that are no UTF-8, or half of a surrogate pair)"
    return f"character {text.index(chr(0)) + 1} is a NUL" if "\0" in text else None


def checked(text: str, where: object = "") -> str:
    """`text` without a byte order mark at its start.

    Args:
        where: the text's place, for errors; empty: the text itself.

    Raises:
        UserError: it is no valid Unicode, or holds a NUL.
    """
    if found := flaw(text):
        raise UserError(f"{where or f'prompt {shown(text)}'}: {found}")
    return text.removeprefix(BYTE_ORDER_MARK)


def shown(text: str) -> str:
    """The beginning of a text as it can stand in a line of ASCII."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def decoded(content: bytes, where: object) -> str:
    """The text of a file or of a part of one, without a byte order mark.

    Raises:
        UserError: it is no UTF-8.
    """
    with refusing(f"{where}: expected text in UTF-8", UnicodeDecodeError):
        return content.decode("utf-8-sig")


def read_text(path: Path) -> str:
    """All of a file.

    Raises:
        UserError: it cannot be read, is no UTF-8, or holds a NUL.
    """
    with refusing(f"{path}: cannot be read", OSError):
        content = path.read_bytes()
    return checked(decoded(content, path), path)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, line) of every line of a file; behind the last line's end there is none.

    Raises:
        UserError: it cannot be read, is no UTF-8, or holds a NUL.
    """
    with refusing(f"{path}: cannot be read", OSError):
        content = decoded(path.read_bytes(), path)
    lines = content.removesuffix("\n").split("\n") if content else []
    return [
        (number, checked(line.removesuffix("\r"), f"{path}: line {number}"))
        for number, line in enumerate(lines, 1)
    ]


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} stands twice")
    return found


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number[:SHOWN]} is no number")
    return value


STRICT = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_float=_finite, parse_constant=_finite)
LENIENT = json.JSONDecoder(object_pairs_hook=_no_repeats)
"""For what others' programs wrote: `NaN`, as Python and pandas put it into fields that are not read here, may stand."""
JSON_ERRORS = (ValueError, RecursionError)
"""What these decoders raise: no JSON, a key twice, a number of thousands of digits; nested too deeply."""


def parse_json(content: str | bytes, where: object, *, nan: bool = False) -> Any:
    """The value of a JSON text. Strings in it may still be no valid Unicode (`"\\ud83d"` is valid JSON): see `checked`.

    Args:
        nan: numbers may be NaN or infinite.

    Raises:
        UserError: no UTF-8 or no JSON, nested too deeply, a key that stands twice, or a number beyond measure.
    """
    text = decoded(content, where) if isinstance(content, bytes) else content.removeprefix(BYTE_ORDER_MARK)
    with refusing(f"{where}: no valid JSON", *JSON_ERRORS):
        return (LENIENT if nan else STRICT).decode(text)


def read_json(path: Path, *, nan: bool = False) -> Any:
    """The value of a JSON file; raises `UserError` as `parse_json`, or because it cannot be read."""
    with refusing(f"{path}: cannot be read", OSError):
        content = path.read_bytes()
    return parse_json(content, path, nan=nan)


def read_json_lines(path: Path, *, nan: bool = False) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of every line of a JSON Lines file that holds one; blank lines are passed over.

    Raises:
        UserError: it cannot be read, or as `parse_json`; names the line.
    """
    with refusing(f"{path}: cannot be read", OSError), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, parse_json(line, f"{path}: line {number}", nan=nan)
