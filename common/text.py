"""Text that comes in: the one border for prompts, whether they are arguments, lines of a file or fields of a recipe.

What is notable here: in a file only `\n` ends a line (`\r\n` is taken for it), since a prompt may hold any other of
Unicode's separators; and what could not be written down again, half of a surrogate pair or an argument's bytes that
are no UTF-8, is refused before anything is done with it.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError, refusing

BYTE_ORDER_MARK = "\ufeff"
SHOWN = 40  # characters of a text in an error


def checked(text: str, where: object = "") -> str:
    """`text` without a byte order mark at its start.

    Args:
        where: the text's place, for errors; empty: the text itself.

    Raises:
        UserError: it is no valid Unicode, or holds a NUL.
    """
    place = where or f"prompt {shown(text)}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: character {error.start + 1} is no valid Unicode (bytes that are no UTF-8, or half of a "
            "surrogate pair)"
        ) from error
    if "\0" in text:
        raise UserError(f"{place}: character {text.index(chr(0)) + 1} is a NUL")
    return text.removeprefix(BYTE_ORDER_MARK)


def shown(text: str) -> str:
    """The beginning of a text as it can stand in a line of ASCII."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, line) of all lines of a file that are more than white space.

    Raises:
        UserError: it cannot be read, is no UTF-8, or holds a NUL.
    """
    with (
        refusing(f"{path}: cannot be read", OSError),
        refusing(f"{path}: expected text in UTF-8", UnicodeDecodeError),
    ):
        content = path.read_bytes().decode("utf-8-sig")
    lines = enumerate((line.removesuffix("\r") for line in content.split("\n")), 1)
    return [(number, checked(line, f"{path}: line {number}")) for number, line in lines if line.strip()]
