"""The training stream: position in, sample out.

The sample at global position p is a pure function of (config, seed, p): the mixture schedule names the source
and the position in it, the source's own order names the image, and crop and flip are drawn from a generator
seeded by (seed, p). Rank r of R takes, in micro-batch j of B, the positions start + (j B + i) R + r. So the
order does not depend on world size or workers, resuming is passing another `start`, and no state has to be
saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch.utils.data import Dataset

from common import dist
from common.data.batch import Batch, Sample, collate
from common.data.config import DataConfig
from common.data.images import CorruptImage, ImageTransform, open_resized
from common.data.lanes import lane_period
from common.data.mixture import Mixture
from common.data.open import open_source
from common.data.order import dealt, derive_key
from common.data.sources import IndexedSource, Source
from common.data.workers import in_workers
from common.errors import FailedRead, UserError

ATTEMPTS = 16  # images tried at one position before the source is given up


class ImageStream(Dataset[Sample]):
    """The endless training stream, indexed by global position (any number from 0)."""

    def __init__(self, config: DataConfig, seed: int, captions: bool = True) -> None:
        self.config, self.seed = config, seed
        self.sources = [open_source(source, config.lanes, captions) for source in config.sources]
        self._mixture = Mixture([source.weight for source in config.sources], config.lanes, seed)
        self._transform = ImageTransform(config.image_size, config.crop, config.flip)

    def __getitem__(self, position: int) -> Sample:
        """Raises:
        UserError: a source is no longer what it was, or `ATTEMPTS` images tried at this position cannot be read.
        """
        number, local, seed = self._mixture[position]
        source = self.sources[number]
        skipped: list[str] = []
        for attempt in range(ATTEMPTS):
            try:
                raw = source.sample(local, seed, attempt)
            except FailedRead as error:
                skipped.append(f"{source.name}: {error}")
                continue
            rng = np.random.Generator(np.random.Philox(key=derive_key(self.seed, "augment", position)))
            try:
                image = open_resized(
                    raw.data, self.config.image_size, self.config.max_pixels, self.config.exact_decoding
                )
                pixels = self._transform(image, rng)
            except CorruptImage as error:
                skipped.append(f"{source.name}/{raw.key}: {error.reason}")
            else:
                return {"pixels": pixels, "caption": raw.caption, "key": raw.key, "skipped": skipped}
        raise UserError(f"{source.name}: {ATTEMPTS} images could not be read, the last: {skipped[-1]}")

    def batch(self, positions: list[int]) -> Batch:
        return collate([self[position] for position in positions], self.config.image_size)


def training_loader(
    config: DataConfig,
    seed: int,
    rank: int = 0,
    world: int = 1,
    micro_batch: int = 1,
    start: int = 0,
    *,
    captions: bool = True,
) -> TrainingLoader:
    """Endless micro-batches of rank `rank`, from global position `start` on; `captions` as in `open_source`.

    After n micro-batches on each rank, the stream stands at `start + n * world * micro_batch`.

    All ranks of the process group call it together.

    Raises:
        UserError: a source cannot be opened, or another rank found another number of samples in it.
    """
    stream = ImageStream(config, seed, captions)
    _compare_ranks(stream.sources)
    return TrainingLoader(stream, rank, world, micro_batch, start)


def _compare_ranks(sources: Sequence[Source]) -> None:
    """Ranks that see different sets (a shard that one of them could not read) would draw by different orders."""
    lengths = [len(source) if isinstance(source, IndexedSource) else 0 for source in sources]
    for rank, theirs in enumerate(dist.gather_objects(lengths)):
        for source, here, there in zip(sources, lengths, theirs, strict=True):
            if here != there:
                raise UserError(
                    f"{source.name}: {here:,} samples on rank {dist.rank()} and {there:,} on rank {rank}; all must see "
                    "the same data"
                )


class TrainingLoader:
    """Iterates over `Batch`es, decoding ahead in worker processes.

    Every micro-batch is split over all workers: the rank's sample m goes to worker m mod W, so that the first batch is
    ready W times sooner than with whole batches. Of streamed sources, a worker stays in its own lanes (`lanes`).
    """

    def __init__(self, stream: ImageStream, rank: int, world: int, micro_batch: int, start: int) -> None:
        if not 0 <= rank < world or micro_batch < 1 or start < 0:
            raise ValueError(f"rank {rank} of {world}, micro-batch {micro_batch}, start {start}")
        self.stream, self.rank, self.world = stream, rank, world
        self.micro_batch, self.start = micro_batch, start
        self._shares = max(1, stream.config.workers)
        self._period = lane_period(stream.sources, world, self._shares)

    def __iter__(self) -> Iterator[Batch]:
        data = self.stream.config
        shares = in_workers(self.stream.batch, self._plan, data.workers, data.prefetch)
        pin = torch.cuda.is_available()
        for step in count():
            yield self._merge(step, [next(shares) for _ in range(self._shares)], pin)

    def _plan(self) -> Iterator[list[int]]:
        """For each micro-batch, the global positions of worker 0, of worker 1, ..."""
        for step in count():
            batch = dealt(step, self.micro_batch, self.rank, self.world, self.start)
            for worker in range(self._shares):
                yield [batch[place] for place in self._places(step, worker)]

    def _places(self, step: int, worker: int) -> list[int]:
        """Which places of micro-batch `step` a worker fills."""
        samples = range(step * self.micro_batch, (step + 1) * self.micro_batch)
        return [place for place, m in enumerate(samples) if m % self._period % self._shares == worker]

    def _merge(self, step: int, shares: list[Batch], pin: bool) -> Batch:
        if len(shares) == 1 and not pin:
            return shares[0]
        shape = (self.micro_batch, *shares[0]["pixels"].shape[1:])
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        captions: list[str | None] = [None] * self.micro_batch
        keys = [""] * self.micro_batch
        for worker, share in enumerate(shares):
            places = self._places(step, worker)
            pixels[places] = share["pixels"]
            for place, caption, key in zip(places, share["caption"], share["key"], strict=True):
                captions[place], keys[place] = caption, key
        skipped = [line for share in shares for line in share["skipped"]]
        return {"pixels": pixels, "caption": captions, "key": keys, "skipped": skipped}
