"""The README's pictures: what failed is framed, margins are even, and a page loads at once."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.sheets import GAP, PROMPT, SIDE, WRONG
from scripts.demo import readme_pictures

BLUE, RED = (0, 0, 255), tuple(bytes.fromhex(WRONG[1:]))


def test_what_fails_the_rules_is_framed(tmp_path: Path) -> None:
    lines = []
    for number, (tag, prompt) in enumerate(
        [("colors", "a blue one"), ("colors", "another"), ("counting", "two")]
    ):
        folder = tmp_path / "geneval" / "pictures" / f"{number:05d}" / "samples"
        folder.mkdir(parents=True)
        for image in range(readme_pictures.COLUMNS + 1):
            path = folder / f"{image:04d}.png"
            Image.new("RGB", (32, 32), BLUE).save(path)
            filename = f"elsewhere/{path.relative_to(tmp_path)}"
            lines.append({"tag": tag, "prompt": prompt, "filename": filename, "correct": image % 2 == 0})
    path = tmp_path / "geneval" / "verdicts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    page = readme_pictures.drawn(tmp_path)
    assert page.height == 2 * (SIDE + GAP)  # a row for the first prompt of each tag
    for column in range(readme_pictures.COLUMNS):
        left = PROMPT + GAP + column * (SIDE + GAP)
        assert page.getpixel((left, 0)) == (RED if column % 2 else BLUE)
        assert page.getpixel((left + SIDE // 2, SIDE // 2)) == BLUE
    assert left + SIDE + GAP == page.width

    path.unlink()
    with pytest.raises(UserError, match=r"verdicts\.jsonl: no pictures were judged there"):
        readme_pictures.drawn(tmp_path)


def test_margins_are_even() -> None:
    page = Image.new("RGB", (50, 40), "white")
    page.paste(BLUE, (7, 3, 27, 13))
    trimmed = readme_pictures.trimmed(page, 5)
    assert trimmed.size == (30, 20) and trimmed.getpixel((5, 5)) == BLUE
    assert readme_pictures.trimmed(trimmed).size == (20, 10)


def test_a_picture_is_small_or_refused() -> None:
    rng = np.random.default_rng(0)
    plain = Image.new("RGB", (300, 300), BLUE)
    assert readme_pictures.compressed(plain)[:4] == b"\x89PNG"
    # Too much in full colour, and not with a palette.
    few = Image.fromarray(rng.integers(0, 256, (256, 3), np.uint8)[rng.integers(0, 256, (300, 300))])
    few.paste(Image.fromarray(rng.integers(0, 256, (180, 300, 3), np.uint8)))
    content = readme_pictures.compressed(few)
    assert len(content) <= readme_pictures.MOST and Image.open(io.BytesIO(content)).mode == "P"
    with pytest.raises(UserError, match="over 150000 bytes"):
        readme_pictures.compressed(Image.fromarray(rng.integers(0, 256, (800, 800, 3), np.uint8)))
