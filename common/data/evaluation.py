"""The loader of an evaluation: each image once, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from common.data.batch import Batch, Sample, collate
from common.data.config import MAX_PIXELS, SourceConfig
from common.data.decoding import Picture
from common.data.images import CorruptImage, ImageTransform, open_image, open_resized
from common.data.open import open_indexed
from common.data.sources import IndexedSource
from common.data.workers import in_workers
from common.errors import FailedRead, UserError

PREFETCH = 4
"""Batches that each worker decodes ahead."""
Transform = Callable[[Image.Image, np.random.Generator], Tensor]
"""RGB picture -> uint8 (3, size, size)."""


def evaluation_loader(
    source: IndexedSource | SourceConfig | str | Path,
    size: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    *,
    workers: int = 0,
    limit: int | None = None,
    skip_corrupt: bool = False,
    max_pixels: int = MAX_PIXELS,
    whole_batches: bool = False,
    transform: Transform | None = None,
    exact: bool = True,
) -> EvaluationLoader:
    """Every image once over all ranks, without padding: the last batch is partial.

    `source` may be a folder's path, whose captions are not read. `limit` keeps the first images only. With
    `skip_corrupt`, unreadable images are left out of their batch (which may become empty) and stand in its
    `skipped`; else they end the evaluation. With `whole_batches`, batches are cut from the whole set and dealt
    to ranks, so that an image stands beside the same others in any world size and a model's output for it is
    equal to the last bit; else images are dealt one by one, which leaves fewer ranks idle where the set is
    small. `transform` makes the squares, instead of a centre crop. `exact` as of `open_resized`: scores are compared
    with those of other programs, which decode whole pictures.

    Raises:
        UserError: the source cannot be opened, or can only be streamed.
    """
    if isinstance(source, (str, Path)):
        source = SourceConfig(kind="folder", path=str(source), unconditional=True)
    if isinstance(source, SourceConfig):
        source = open_indexed(source)
    images = range(len(source) if limit is None else min(limit, len(source)))
    own: Sequence[int] = images[rank::world]
    if whole_batches:
        own = [at for first in images[rank * batch :: world * batch] for at in images[first : first + batch]]
    return EvaluationLoader(
        source=source,
        images=own,
        size=size,
        batch=batch,
        workers=workers,
        skip_corrupt=skip_corrupt,
        max_pixels=max_pixels,
        transform=transform,
        exact=exact,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationLoader:
    """Iterates over this rank's `Batch`es, which may be done more than once; `len` is their number.

    Args:
        images: indices in `source` of the images to read, in this order.
        size: side of the squares, px.
        workers: processes that decode; 0 decodes in this one.
        skip_corrupt: unreadable images are left out, and stand in their batch's `skipped`.
        transform: makes the squares of whole pictures; None crops the centre.
        exact: of `open_resized`, where there is no `transform`.
        start: how many of `images` to pass over, those of whole batches that a former run has seen.
    """

    source: IndexedSource
    images: Sequence[int]
    size: int
    batch: int
    workers: int = 0
    skip_corrupt: bool = False
    max_pixels: int = MAX_PIXELS
    transform: Transform | None = None
    exact: bool = True
    start: int = 0

    def __len__(self) -> int:
        return -(-(len(self.images) - self.start) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        return in_workers(self.load, self._plan, self.workers, prefetch=PREFETCH, pin=True)

    def _plan(self) -> Iterator[list[int]]:
        places = range(self.start, len(self.images), self.batch)
        return (list(self.images[at : at + self.batch]) for at in places)

    def load(self, indices: list[int]) -> Batch:
        """One batch, of these images alone."""
        samples: list[Sample] = []
        skipped: list[str] = []
        for index in indices:
            try:
                raw = self.source.read(index)
            except FailedRead as error:
                if not self.skip_corrupt:
                    raise
                skipped.append(f"{self.source.name}: {error}")
                continue
            try:
                pixels = self._square(raw.data)
            except CorruptImage as error:
                skipped.append(f"{self.source.name}/{raw.key}: {error.reason}")
                if not self.skip_corrupt:
                    raise UserError(skipped[-1]) from error
            else:
                samples.append({"pixels": pixels, "caption": raw.caption, "key": raw.key, "skipped": []})
        return {**collate(samples, self.size), "skipped": skipped}

    def _square(self, data: Picture) -> Tensor:
        rng = np.random.default_rng(0)  # nothing random is left in the transform
        if self.transform is not None:
            return self.transform(open_image(data, self.max_pixels), rng)
        image = open_resized(data, self.size, self.max_pixels, self.exact)
        return ImageTransform(self.size, "center", flip=False)(image, rng)
