"""A sheet of pictures with questions, right answers and the model's."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE, TEXT, GAP, LINE = 144, 520, 8, 15  # px
WIDTH = 78  # characters of a line
RIGHT, WRONG = (0, 110, 40), (180, 20, 20)


@dataclass(frozen=True)
class Answer:
    """A picture, if there is one, and its turns: question, right answer, the model's answer."""

    picture: Image.Image | None
    turns: list[tuple[str, str, str]]


def answer_sheet(rows: list[Answer]) -> Image.Image:
    """One row a picture; the model's answer is green where it is the right one, else red."""
    drawn = [_lines(row) for row in rows]
    heights = [max(SIDE, LINE * len(lines)) + GAP for lines in drawn]
    page = Image.new("RGB", (SIDE + TEXT + 3 * GAP, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(page)
    top = GAP
    for row, lines, height in zip(rows, drawn, heights, strict=True):
        if row.picture is not None:
            smooth = Image.Resampling.BICUBIC if max(row.picture.size) > SIDE else Image.Resampling.NEAREST
            page.paste(row.picture.resize((SIDE, SIDE), smooth), (GAP, top))
        for number, (text, color) in enumerate(lines):
            draw.text((SIDE + 2 * GAP, top + number * LINE), text, fill=color, font_size=12)
        top += height
    return page


def _lines(row: Answer) -> list[tuple[str, tuple[int, int, int]]]:
    lines: list[tuple[str, tuple[int, int, int]]] = []
    for question, right, given in row.turns:
        asked = " ".join(question.replace("<image>", "").split())
        verdict = RIGHT if given == right else WRONG
        lines += [(line, (0, 0, 0)) for line in textwrap.wrap(asked, WIDTH)[:3]]
        shown = f"-> {given}" if given == right else f"-> {given}   (right: {right})"
        lines += [(line, verdict) for line in textwrap.wrap(shown, WIDTH)[:4]]
    return lines
