"""One page of pictures with their prompts: a row for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw

LEAST_SIDE = 96  # px; smaller pictures are enlarged by a whole factor
MARGIN = 200  # px, for the prompt
GAP = 4


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """(prompt, its pictures), all of one size -> one page."""
    side = max(picture.width for _, pictures in rows for picture in pictures)
    side *= -(-LEAST_SIDE // side)
    columns = max(len(pictures) for _, pictures in rows)
    page = Image.new("RGB", (MARGIN + columns * (side + GAP), len(rows) * (side + GAP)), "white")
    draw = ImageDraw.Draw(page)
    for row, (prompt, pictures) in enumerate(rows):
        top = row * (side + GAP)
        lines = wrap(prompt or "(no prompt)", 28)[: max(1, side // 16)]
        draw.multiline_text((6, top + 4), "\n".join(lines), fill="black", font_size=13)
        for column, picture in enumerate(pictures):
            tile = picture.resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (MARGIN + column * (side + GAP), top))
    return page
