"""Pages of pictures: in rows, with words beside or below them, on white.

What is notable here: every part of a page is a picture itself (a `tile`, `words`, parts `beside` or `below` each
other), so a page is one expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from PIL import Image, ImageDraw, ImageOps

SIDE = 96  # px; smaller pictures are enlarged
GAP, LINE, LETTER = 4, 16, 7  # px: between parts, from one line of words to the next, and for one letter
PROMPT, TALK, CAPTIONED, ASKED = 200, 540, 192, 160  # px: widths of words, and sides of pictures beside them
RIGHT, WRONG = "#006e28", "#b41414"


@dataclass(frozen=True)
class Answer:
    """A picture, if there is one, and its turns: question, right answer, the model's answer."""

    picture: Image.Image | None
    turns: list[tuple[str, str, str]]


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """A row for each prompt: its words, then its pictures."""
    parts = []
    for prompt, pictures in rows:
        tiles = [tile(picture) for picture in pictures]
        room = max(1, tiles[0].height // LINE)
        parts.append(beside([words(prompt or "(no prompt)", PROMPT, lines=room), *tiles]))
    return below(parts)


def pairs_sheet(pairs: Sequence[tuple[Image.Image, Image.Image]], per_row: int = 4) -> Image.Image:
    """Pairs of pictures, such as originals and their reconstructions, close to each other."""
    return _in_rows([beside([tile(left), tile(right)]) for left, right in pairs], per_row, 2 * GAP)


def captioned_sheet(captioned: Sequence[tuple[Image.Image, str]], per_row: int = 6) -> Image.Image:
    """Each picture above its caption."""
    cells = [
        below([tile(picture, CAPTIONED), words(caption, CAPTIONED, lines=8)])
        for picture, caption in captioned
    ]
    return _in_rows(cells, per_row, 2 * GAP)


def answer_sheet(rows: Sequence[Answer]) -> Image.Image:
    """A row for each picture: it, its questions, and the model's answers, green where right, else red."""
    return below([beside([_framed(row.picture, ASKED), _talk(row.turns)], 2 * GAP) for row in rows], 2 * GAP)


def tile(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture, enlarged by the largest whole factor that keeps it within `side` px; larger ones stay."""
    scale = max(1, side // max(picture.size))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def words(text: str, width: int, color: str = "black", lines: int = 4) -> Image.Image:
    """`text` in `lines` lines at most, `width` px wide; what does not fit is cut off."""
    shown = wrap(" ".join(text.split()), width // LETTER)[:lines]
    page = Image.new("RGB", (width, LINE * len(shown)), "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(shown):
        draw.text((GAP, number * LINE), line, fill=color, font_size=13)
    return page


def beside(parts: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Parts from left to right, their tops level, each with a gap behind it."""
    page = Image.new("RGB", (sum(part.width + gap for part in parts), max(p.height for p in parts)), "white")
    left = 0
    for part in parts:
        page.paste(part, (left, 0))
        left += part.width + gap
    return page


def below(parts: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Parts from top to bottom, their left edges level, each with a gap below it."""
    page = Image.new("RGB", (max(p.width for p in parts), sum(part.height + gap for part in parts)), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height + gap
    return page


def _in_rows(cells: Sequence[Image.Image], per_row: int, gap: int) -> Image.Image:
    return below([beside(cells[first : first + per_row], gap) for first in range(0, len(cells), per_row)])


def _framed(picture: Image.Image | None, side: int) -> Image.Image:
    """A square of `side` px with the picture in it, made smaller where it is larger; empty without one."""
    page = Image.new("RGB", (side, side), "white")
    if picture is not None:
        page.paste(
            ImageOps.contain(picture, (side, side)) if max(picture.size) > side else tile(picture, side)
        )
    return page


def _talk(turns: Sequence[tuple[str, str, str]]) -> Image.Image:
    parts = [Image.new("RGB", (TALK, 0))]
    for question, right, given in turns:
        said = f"-> {given}" if given == right else f"-> {given}   (right: {right})"
        parts += [
            words(question, TALK, lines=3),
            words(said, TALK, RIGHT if given == right else WRONG),
        ]
    return below(parts, 0)
