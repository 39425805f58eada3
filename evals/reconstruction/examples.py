"""What shows single pictures of an evaluation: per_image.jsonl, and grids of the first and the worst ones."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from common import dist
from common.data.images import to_pil
from common.files import write_png, write_text
from common.sheets import pairs_sheet

SHOWN = 8


@dataclass(order=True)
class Example:
    """One picture to show; ordered so that a heap's smallest is the best reconstructed, then the last."""

    sort_key: tuple[float, int]
    index: int = field(compare=False)
    psnr: float = field(compare=False)
    original: Tensor = field(compare=False)  # uint8 (3, H, W)
    rebuilt: Tensor = field(compare=False)


class Examples:
    """Keeps the first pictures of a set and those of lowest PSNR, in constant memory."""

    def __init__(self, count: int = SHOWN) -> None:
        self.count = count
        self.first: list[Example] = []
        self._worst: list[Example] = []

    def add(self, index: int, psnr: float, original: Tensor, rebuilt: Tensor) -> None:
        """`index` is the picture's place in the whole set; pictures are uint8 (3, H, W) on the CPU."""
        self.add_example(Example((-psnr, -index), index, psnr, original, rebuilt))

    def add_example(self, example: Example) -> None:
        self.first = sorted([*self.first, example], key=lambda kept: kept.index)[: self.count]
        heapq.heappush(self._worst, example)
        if len(self._worst) > self.count:
            heapq.heappop(self._worst)

    @property
    def worst(self) -> list[Example]:
        """Lowest PSNR first."""
        return sorted(self._worst, reverse=True)


def gather(rows: list[dict[str, Any]], examples: Examples) -> tuple[list[dict[str, Any]], Examples]:
    """All ranks' rows in the order of the set, and the examples among all; every rank calls it."""
    everything = dist.gather_objects((rows, examples))
    merged = Examples(examples.count)
    seen: set[int] = set()
    for _, part in everything:
        for example in {kept.index: kept for kept in (*part.first, *part.worst)}.values():
            if example.index not in seen:
                seen.add(example.index)
                merged.add_example(example)
    return sorted((row for part, _ in everything for row in part), key=lambda row: row["index"]), merged


def write(folder: Path, rows: Sequence[dict[str, Any]], examples: Examples) -> None:
    """per_image.jsonl, reconstructions.png and worst.png into `folder`, which is made if absent.

    Raises:
        UserError: the folder cannot be written.
    """
    write_text(folder / "per_image.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_png(folder / "reconstructions.png", pairs(examples.first))
    write_png(folder / "worst.png", pairs(examples.worst))


def pairs(examples: Sequence[Example]) -> Image.Image:
    """Original | reconstruction of each, two pairs a row."""
    return pairs_sheet([(to_pil(one.original), to_pil(one.rebuilt)) for one in examples], per_row=2)
