"""The training stream (position in, sample out), and the loader of an evaluation.

The sample at global position p is a pure function of (config, seed, p): the mixture schedule names the source
and the position in it, the source's own order names the image, and crop and flip are drawn from a generator
seeded by (seed, p). Rank r of R takes, in micro-batch j of B, the positions start + (j B + i) R + r. So the
order does not depend on world size or workers, resuming is passing another `start`, and no state has to be
saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.config import MAX_PIXELS, DataConfig, SourceConfig
from common.data.images import CorruptImage, ImageTransform, open_image
from common.data.order import block_counts, derive_key, locate
from common.data.sources import IndexedSource, open_source
from common.data.workers import in_workers
from common.errors import UserError

__all__ = [
    "Batch",
    "DataConfig",
    "EvaluationLoader",
    "ImageStream",
    "Sample",
    "TrainingLoader",
    "evaluation_loader",
    "training_loader",
]

ATTEMPTS = 16  # images tried at one position before the source is given up


class Sample(TypedDict):
    pixels: Tensor  # uint8 (3, S, S)
    caption: str | None
    key: str  # unique in its source
    skipped: list[str]  # `source/key: reason` of unreadable images, which this one stands for


class Batch(TypedDict):
    pixels: Tensor  # uint8 (B, 3, S, S)
    caption: list[str | None]
    key: list[str]
    skipped: list[str]


def collate(samples: list[Sample], size: int) -> Batch:
    pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    for place, sample in enumerate(samples):
        pixels[place] = sample["pixels"]
    return {
        "pixels": pixels,
        "caption": [sample["caption"] for sample in samples],
        "key": [sample["key"] for sample in samples],
        "skipped": [line for sample in samples for line in sample["skipped"]],
    }


class ImageStream(Dataset[Sample]):
    """The endless training stream, indexed by global position (any number from 0)."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._sources = [open_source(source, config.lanes) for source in config.sources]
        self._counts = block_counts([source.weight for source in config.sources])
        self._transform = ImageTransform(config.image_size, config.crop, config.flip)

    def __getitem__(self, position: int) -> Sample:
        """Raises:
        UserError: a source cannot be read, or `ATTEMPTS` images tried at this position are corrupt.
        """
        number, local = locate(position, self._counts, self.seed, self.config.lanes)
        source, seed = self._sources[number], derive_key(self.seed, "source", number)
        skipped: list[str] = []
        for attempt in range(ATTEMPTS):
            raw = source.sample(local, seed, attempt)
            rng = np.random.Generator(np.random.Philox(key=derive_key(self.seed, "augment", position)))
            try:
                pixels = self._transform(open_image(raw.data, self.config.max_pixels), rng)
            except CorruptImage as error:
                skipped.append(f"{source.name}/{raw.key}: {error.reason}")
            else:
                return {"pixels": pixels, "caption": raw.caption, "key": raw.key, "skipped": skipped}
        raise UserError(f"{source.name}: {ATTEMPTS} images could not be read, the last: {skipped[-1]}")

    def batch(self, positions: list[int]) -> Batch:
        return collate([self[position] for position in positions], self.config.image_size)


def training_loader(
    config: DataConfig, seed: int, rank: int = 0, world: int = 1, micro_batch: int = 1, start: int = 0
) -> TrainingLoader:
    """Endless micro-batches of rank `rank`, from global position `start` on.

    After n micro-batches on each rank, the stream stands at `start + n * world * micro_batch`.

    Raises:
        UserError: a source cannot be opened.
    """
    return TrainingLoader(ImageStream(config, seed), rank, world, micro_batch, start)


class TrainingLoader:
    """Iterates over `Batch`es, decoding ahead in worker processes.

    Every micro-batch is split over all workers: the rank's sample m goes to worker m mod W. So the first
    batch is ready W times sooner than with whole batches, and a worker stays in its own lanes of a streamed
    dataset.
    """

    def __init__(self, stream: ImageStream, rank: int, world: int, micro_batch: int, start: int) -> None:
        if not 0 <= rank < world or micro_batch < 1 or start < 0:
            raise ValueError(f"rank {rank} of {world}, micro-batch {micro_batch}, start {start}")
        self.stream, self.rank, self.world = stream, rank, world
        self.micro_batch, self.start = micro_batch, start
        self._shares = max(1, stream.config.workers)

    def __iter__(self) -> Iterator[Batch]:
        data = self.stream.config
        shares = in_workers(self.stream.batch, self._plan, data.workers, data.prefetch)
        pin = torch.cuda.is_available()
        for step in count():
            yield self._merge(step, [next(shares) for _ in range(self._shares)], pin)

    def _plan(self) -> Iterator[list[int]]:
        """For each micro-batch, the global positions of worker 0, of worker 1, ..."""
        for step in count():
            first = step * self.micro_batch
            batch = [self.start + m * self.world + self.rank for m in range(first, first + self.micro_batch)]
            yield from (batch[self._places(step, worker)] for worker in range(self._shares))

    def _places(self, step: int, worker: int) -> slice:
        """Which places of micro-batch `step` a worker fills."""
        return slice((worker - step * self.micro_batch) % self._shares, None, self._shares)

    def _merge(self, step: int, shares: list[Batch], pin: bool) -> Batch:
        if len(shares) == 1 and not pin:
            return shares[0]
        shape = (self.micro_batch, *shares[0]["pixels"].shape[1:])
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        captions: list[str | None] = [None] * self.micro_batch
        keys = [""] * self.micro_batch
        for worker, share in enumerate(shares):
            places = self._places(step, worker)
            pixels[places], captions[places], keys[places] = share["pixels"], share["caption"], share["key"]
        skipped = [line for share in shares for line in share["skipped"]]
        return {"pixels": pixels, "caption": captions, "key": keys, "skipped": skipped}


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
) -> EvaluationLoader:
    """Every image once over all ranks, centre-cropped, without padding: the last batch is partial.

    `source` may be a folder's path. `limit` keeps the first images only. With `skip_corrupt`, unreadable
    images are left out of their batch (which may become empty) and stand in its `skipped`; else they end the
    evaluation. With `whole_batches`, batches are cut from the whole set and dealt to ranks, so that an image
    stands beside the same others in any world size and a model's output for it is equal to the last bit;
    else images are dealt one by one, which leaves fewer ranks idle where the set is small.

    Raises:
        UserError: the source cannot be opened, or can only be streamed.
    """
    if isinstance(source, (str, Path)):
        source = SourceConfig(kind="folder", path=str(source))
    if isinstance(source, SourceConfig):
        opened = open_source(source)
        if not isinstance(opened, IndexedSource):
            raise UserError(f"{source.path}: streaming: an evaluation reads each image once; set it to false")
        source = opened
    images = range(len(source) if limit is None else min(limit, len(source)))
    own: Sequence[int] = images[rank::world]
    if whole_batches:
        own = [at for first in images[rank * batch :: world * batch] for at in images[first : first + batch]]
    return EvaluationLoader(source, own, size, batch, workers, skip_corrupt, max_pixels)


class EvaluationLoader:
    """Iterates over this rank's `Batch`es; `len` is their number, `images` the indices of the images."""

    def __init__(
        self,
        source: IndexedSource,
        images: Sequence[int],
        size: int,
        batch: int,
        workers: int,
        skip_corrupt: bool,
        max_pixels: int,
    ) -> None:
        self.source, self.images, self.batch = source, images, batch
        self._workers, self._skip_corrupt, self._max_pixels = workers, skip_corrupt, max_pixels
        self._size, self._transform = size, ImageTransform(size, "center", flip=False)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        return in_workers(self._load, self._plan, self._workers, prefetch=2)

    def _plan(self) -> Iterator[list[int]]:
        return (list(self.images[at : at + self.batch]) for at in range(0, len(self.images), self.batch))

    def _load(self, indices: list[int]) -> Batch:
        samples: list[Sample] = []
        skipped: list[str] = []
        rng = np.random.default_rng(0)  # nothing random is left in the transform
        for index in indices:
            raw = self.source.read(index)
            try:
                pixels = self._transform(open_image(raw.data, self._max_pixels), rng)
            except CorruptImage as error:
                skipped.append(f"{self.source.name}/{raw.key}: {error.reason}")
                if not self._skip_corrupt:
                    raise UserError(skipped[-1]) from error
            else:
                samples.append({"pixels": pixels, "caption": raw.caption, "key": raw.key, "skipped": []})
        return {**collate(samples, self._size), "skipped": skipped}
