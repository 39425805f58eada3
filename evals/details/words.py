"""Small text: words of falling height, read back by the shapes of the words, and by OCR where letters are large enough.

The reader by shapes knows the height, the place and the list of words, so it needs few pixels and reads at 32 px: of
all words' renderings it takes the one that correlates best. Guessing reads 1 of `len(WORDS)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evals.details.charts import CONTRASTS, Chart, Seen, painted

if TYPE_CHECKING:
    from evals.reading import Reader

# fmt: off
WORDS = (
    "ACE", "AIR", "ANT", "ARM", "BED", "BUS", "CAR", "CAT", "COW", "CUP", "DOG", "EAR", "EGG", "EYE", "FIG", "FOX",
    "HAT", "HEN", "ICE", "INK", "JAM", "KEY", "LEG", "MAP", "NET", "OAK", "OWL", "PEN", "PIG", "SEA", "SUN", "ZOO",
)
# fmt: on
HEIGHTS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
"""px of a capital letter; those at which the widest word fits, up to a third of the side."""
LARGEST = 1 / 3
SUPERSAMPLING = 8
OFFSETS = 4
"""Places within a pixel, along each side, at which a word may begin."""
SMALLEST_FOR_OCR = 64
"""px: the side of a picture from which on OCR is asked; below, no engine finds even sharp text."""
READ_BY_OCR = 8
"""Charts of each level that OCR reads, since it takes a second each."""


class SmallText:
    """A word of three capitals on each chart, anywhere in it, light on dark or dark on light."""

    name, axis = "text", "height of capitals, px"
    harder: Literal["smaller"] = "smaller"

    def __init__(self, side: int, seed: int, per_level: int, reader: Reader | None) -> None:
        self.side, self.seed, self.per_level = side, seed, per_level
        self.levels = [height for height in HEIGHTS if height <= side * LARGEST and _room(height) <= side - 2]
        self.measures = {"read": "words read by their shapes"}
        self.reader = reader if side >= SMALLEST_FOR_OCR else None
        if self.reader is not None:
            self.measures["ocr"] = "words read by OCR"
        self.identity: dict[str, Any] = {
            "levels": self.levels,
            "words": list(WORDS),
            "contrasts": list(CONTRASTS),
            "reader": self.reader and self.reader.identity,
            "seed": seed,
        }

    def __len__(self) -> int:
        return len(self.levels) * self.per_level

    def chart(self, index: int) -> Chart:
        """See `DetailTest.chart`."""
        rng = np.random.default_rng([self.seed, 1, index])
        height = self.levels[index % len(self.levels)]
        facts: dict[str, Any] = {
            "word": str(rng.choice(WORDS)),
            "contrast": float(rng.choice(CONTRASTS)),
            "sign": float(rng.choice((-1.0, 1.0))),
            "offset": tuple(int(at) for at in rng.integers(OFFSETS, size=2)),
            "asked": index < READ_BY_OCR * len(self.levels),
        }
        mask = _masks(height, facts["offset"])[facts["word"]]
        top, left = (int(rng.integers(self.side - extent + 1)) for extent in mask.shape)
        coverage = np.zeros((self.side, self.side), np.float32)
        coverage[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        pixels = painted(coverage, facts["contrast"], facts["sign"])
        return Chart(pixels, float(height), {**facts, "top": top, "left": left})

    def measure(self, chart: Chart, picture: np.ndarray) -> list[Seen]:
        """See `DetailTest.measure`."""
        word = chart.facts["word"]
        guess = read_by_shape(picture, int(chart.level), chart.facts)
        scores, said = {"read": float(guess == word)}, {"word": word, "read_as": guess}
        if self.reader is not None and chart.facts["asked"]:
            text = self.reader.read(Image.fromarray(picture))
            scores["ocr"] = float("".join(filter(str.isalnum, text)).upper() == word)
            said["ocr_as"] = text
        return [Seen(chart.level, scores, {**said, "contrast": chart.facts["contrast"]})]


def read_by_shape(picture: np.ndarray, height: int, facts: Mapping[str, Any]) -> str:
    """The word whose rendering, at the chart's place, correlates best with a picture (S, S, 3)."""
    masks = _masks(height, facts["offset"])
    rows, columns = next(iter(masks.values())).shape
    piece = picture[facts["top"] : facts["top"] + rows, facts["left"] : facts["left"] + columns].mean(-1)
    piece = (piece - piece.mean()) * facts["sign"]
    deviations = {word: mask - mask.mean() for word, mask in masks.items()}
    return max(
        deviations,
        key=lambda word: float((piece * deviations[word]).sum()) / np.linalg.norm(deviations[word]),
    )


@lru_cache(maxsize=256)
def _masks(height: int, offset: tuple[int, int]) -> dict[str, np.ndarray]:
    """Coverage of every word, (h, w) float32 in [0, 1], all in boxes of one size, beginning `offset` / OFFSETS in."""
    font = _font(height)
    width, rows = _room(height), height + 2
    drawn = {}
    for word in WORDS:
        fine = Image.new("L", (width * SUPERSAMPLING, rows * SUPERSAMPLING))
        x, y = (at * SUPERSAMPLING // OFFSETS for at in offset)
        ImageDraw.Draw(fine).text((x, y + height * SUPERSAMPLING), word, fill=255, font=font, anchor="ls")
        drawn[word] = np.asarray(fine.reduce(SUPERSAMPLING), np.float32) / 255
    return drawn


@lru_cache(maxsize=64)
def _room(height: int) -> int:
    """px that the widest word takes, with a pixel to begin in."""
    return -(-max(round(_font(height).getlength(word)) for word in WORDS) // SUPERSAMPLING) + 1


@lru_cache(maxsize=64)
def _font(height: int) -> Any:
    """Pillow's own font, at a size of which capitals are `height` px high, supersampled."""
    _, top, _, bottom = ImageFont.load_default(1000).getbbox("H")
    return ImageFont.load_default(height * SUPERSAMPLING * 1000 / (bottom - top))
