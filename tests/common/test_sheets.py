"""Pages of pictures: every tile is there as it was, words stand beside it, and nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common import sheets
from common.sheets import Answer, answer_sheet, captioned_sheet, contact_sheet, pairs_sheet


def picture(level: int, width: int = 32, height: int = 32) -> Image.Image:
    return Image.new("RGB", (width, height), (level, 0, 255 - level))


def pixels(page: Image.Image) -> np.ndarray:
    return np.asarray(page)


@pytest.mark.parametrize(
    "side, shown", [(1, 96), (20, 80), (32, 96), (48, 96), (96, 96), (100, 100), (512, 512)]
)
def test_tiles_are_enlarged_by_whole_factors_and_never_smoothed(side: int, shown: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    tile = pixels(sheets.tile(Image.fromarray(noise)))
    assert tile.shape == (shown, shown, 3)
    assert (tile == noise.repeat(shown // side, 0).repeat(shown // side, 1)).all()


def test_a_contact_sheet_has_a_row_for_each_prompt() -> None:
    page = pixels(contact_sheet([("a red circle", [picture(10), picture(20)]), ("", [picture(30)])]))
    step, left = 96 + sheets.GAP, sheets.PROMPT + sheets.GAP
    assert page.shape[0] == 2 * step
    for row, column, level in ((0, 0, 10), (0, 1, 20), (1, 0, 30)):
        x, y = left + column * step, row * step
        assert (page[y : y + 96, x : x + 96] == (level, 0, 255 - level)).all()
    assert (page[step:, left + step :] == 255).all()  # no fourth picture
    for row in (0, 1):  # words, in black on white, left of the pictures and within their row
        words = page[row * step : row * step + 96, : sheets.PROMPT]
        assert words.min() < 80 and words.max() == 255


def test_a_prompt_may_fill_the_height_of_a_large_picture_and_no_more() -> None:
    prompt = "word " * 1000
    for side in (32, 512):
        page = contact_sheet([(prompt, [picture(0, side, side)])])
        shown = max(side, 96)
        assert page.height == shown + sheets.GAP
        assert pixels(page)[shown - 20 : shown, : sheets.PROMPT].min() < 80


def test_pairs_stand_closer_than_their_neighbours() -> None:
    page = pixels(pairs_sheet([(picture(level), picture(level + 1)) for level in (10, 20, 30)], per_row=2))
    blank = (page[:96] == 255).all((0, 2)).nonzero()[0]
    gaps = np.split(blank, np.flatnonzero(np.diff(blank) > 1) + 1)
    assert [len(gap) for gap in gaps] == [4, 12, 4, 12]
    assert page.shape[0] == 2 * 100 and (page[100:196, :96] == (30, 0, 225)).all()


def test_captions_stand_below_their_pictures() -> None:
    captioned = [(picture(10), "a"), (picture(20), "long " * 20), (picture(30), "c")]
    page = pixels(captioned_sheet(captioned, per_row=2))
    side = sheets.CAPTIONED
    assert (page[:side, :side] == (10, 0, 245)).all()
    assert page[side : side + sheets.GAP + sheets.LINE, :side].min() < 80
    second = next(y for y in range(side, len(page)) if (page[y : y + side, :side] == (30, 0, 225)).all())
    assert page[side : second - 8, side:].min() < 80  # all of the longest caption stands above the next row


def test_answers_are_green_where_right_and_red_where_wrong() -> None:
    turns = [("What\n color?", "red", "red"), ("How many?", "2", "3")]
    rows = [Answer(picture(10), turns), Answer(None, turns[:1]), Answer(picture(30, 640, 320), turns * 9)]
    page = pixels(answer_sheet(rows)).astype(int)
    side = sheets.ASKED
    assert (page[:side, :side] == (10, 0, 245)).all()
    beside = page[:, side + 8 :]
    green = (beside[..., 1] - beside[..., 0] > 60).any(1).nonzero()[0]
    red = (beside[..., 0] - beside[..., 1] > 60).any(1).nonzero()[0]
    assert 16 <= green[0] < 32 and 48 <= red[0] < 64  # the second and the fourth line
    assert (page[side + 8 : 2 * side + 8, :side] == 255).all()  # without a picture
    top = 2 * (side + 8)
    assert (page[top : top + side // 2, :side] == (30, 0, 225)).all()  # smaller, in its own shape
    assert (page[top + side // 2 :, :side] == 255).all()
    assert len(page) == top + 36 * sheets.LINE + 8  # all lines of the talk
