"""Pictures that stand in the text itself, in base64: a data URI, or the bare letters."""

from __future__ import annotations

import base64
import re

DATA_URI = re.compile(r"data:[\w/.+-]*(;[\w=.+-]+)*;base64,", re.IGNORECASE)
FIRST_LETTERS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
"""Of JPEG, PNG, GIF, WebP, BMP, TIFF (both), and AVIF or JPEG 2000, in base64."""
SHORTEST = 40  # letters; the smallest picture of these formats has more, and hardly a path that begins so


def inline_picture(text: str) -> bytes | None:
    """The encoded picture that `text` is; None if it is something else, as a path. What is damaged is given as it is:
    nothing, which no decoder takes for a picture.
    """
    if found := DATA_URI.match(text):
        return _decoded(text[found.end() :]) or b""
    if len(text) < SHORTEST or not text.startswith(FIRST_LETTERS) or "." in text:
        return None
    return _decoded(text)


def _decoded(letters: str) -> bytes | None:
    """None if it is no base64; blanks, and the alphabet of URLs, are taken. It ends with its padding."""
    plain = "".join(letters.split()).replace("-", "+").replace("_", "/").partition("=")[0]
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return None
