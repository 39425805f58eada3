"""A sample of a source, opened: what is damaged, how large pictures are, which have captions, what decoding costs.

The sample of a source that can be read anywhere is spread over its whole length: it is cut into as many stretches as
pictures are looked at, and one is drawn from each by the recipe's seed. A streamed one is read from its beginning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.config import DataConfig, SourceConfig
from common.data.images import CorruptImage, ImageTransform, open_resized, read_size
from common.data.order import derive_key
from common.data.sources import Account, IndexedSource, RawImage, Source
from common.errors import UserError, one_line

THREADS = 8  # reading waits for a disk or a network more than for a core
AHEAD = 256  # pictures in flight; else a million waiting results would fill memory
STREAMED_SEED = 0  # of a stream's own order


@dataclass(frozen=True)
class Wanted:
    """A source to look at. `where`: in the recipe; `samples`: how many, None for all; `held_out`: not trained on;
    `captions`: they are needed."""

    where: str
    source: SourceConfig
    samples: int | None
    held_out: bool = False
    captions: bool = False


@dataclass
class Looked:
    """What was seen of one source.

    Args:
        where: in the recipe, such as `data.sources.0`. name: as the recipe names it.
        account: what the source itself says that it was given.
        tried: pictures that were opened. problems: of them, the unreadable ones, as `SOURCE/KEY: reason`.
        sizes: (width, height) of the readable ones, before any rotation.
        captions: of the readable ones; None without.
        digests: of their encoded bytes; twins have the same.
        seconds: of one core, to decode and crop the readable ones. waits: for each, seconds that reading it took.
    """

    where: str
    name: str
    account: Account
    tried: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    captions: list[str | None] = dataclasses.field(default_factory=list)
    digests: list[bytes] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    waits: list[float] = dataclasses.field(default_factory=list)

    @property
    def twins(self) -> int:
        """Pictures that are, byte for byte, another one of those looked at."""
        return len(self.digests) - len(set(self.digests))

    @property
    def per_second(self) -> float | None:
        """Pictures that one core decodes in a second."""
        return len(self.sizes) / self.seconds if self.seconds else None


class _Seen(NamedTuple):
    key: str
    problem: str | None
    size: tuple[int, int] = (0, 0)
    caption: str | None = None
    digest: bytes = b""
    seconds: float = 0.0
    wait: float = 0.0


def look_through(
    looked: Looked,
    source: Source,
    data: DataConfig,
    seed: int,
    samples: int | None,
    progress: Callable[[], Any],
    each: Callable[[str, str], Any] = lambda caption, where: None,
) -> None:
    """Open `samples` pictures of `source` (None: all of them) and note in `looked` what they are.

    Args:
        data: how pictures become squares; none is made, but decoding is measured with it.
        progress: called after each. each: called with every caption and its place.
    """
    transform = ImageTransform(data.image_size, data.crop, data.flip)

    def look(place: int) -> _Seen:
        key, start = f"sample {place}", time.perf_counter()
        try:
            raw = _read(source, place)
            key, wait = raw.key, time.perf_counter() - start
            busy = time.thread_time()
            rng = np.random.default_rng(0)
            transform(open_resized(raw.data, data.image_size, data.max_pixels, data.exact_decoding), rng)
            seconds = time.thread_time() - busy
            assert not isinstance(raw.data, CorruptImage)  # it would have been raised
            size, digest = read_size(raw.data, data.max_pixels), _digest(raw.data)
            return _Seen(key, None, size, raw.caption, digest, seconds, wait)
        except CorruptImage as error:
            return _Seen(key, error.reason)
        except UserError as error:  # a shard that cannot be read at this place
            return _Seen(key, str(error))
        except Exception as error:  # whatever else a library makes of damaged bytes
            return _Seen(key, f"{type(error).__name__}: {one_line(error)}")

    for seen in _in_threads(look, _places(source, samples, seed), isinstance(source, IndexedSource)):
        looked.tried += 1
        if seen.problem is not None:
            looked.problems.append(" ".join(f"{looked.name}/{seen.key}: {seen.problem}".split()))
        else:
            looked.sizes.append(seen.size)
            looked.captions.append(seen.caption)
            looked.digests.append(seen.digest)
            looked.seconds += seen.seconds
            looked.waits.append(seen.wait)
            if seen.caption:
                each(seen.caption, f"{looked.name}/{seen.key}")
        progress()


def planned(source: Source, samples: int | None) -> int:
    """How many pictures `look_through` will open.

    Raises:
        UserError: all of a stream, which has no end.
    """
    if isinstance(source, IndexedSource):
        return len(source) if samples is None else min(samples, len(source))
    if samples is None:
        raise UserError(f"{source.name}: --samples all: a streamed source has no end; name a number")
    return samples


def spread(length: int, samples: int | None, seed: int) -> Iterator[int]:
    """Indices of a sample of `length` things, in order: one of each of `samples` stretches, or all of them."""
    count = length if samples is None else min(samples, length)
    for stretch in range(count):
        first, end = stretch * length // count, (stretch + 1) * length // count
        yield first + derive_key(seed, "preflight", stretch) % (end - first)


def _places(source: Source, samples: int | None, seed: int) -> Iterator[int]:
    if isinstance(source, IndexedSource):
        return spread(len(source), samples, seed)
    return iter(range(planned(source, samples)))


def _read(source: Source, place: int) -> RawImage:
    if isinstance(source, IndexedSource):
        return source.read(place)
    return source.sample(place, STREAMED_SEED)


def _digest(data: bytes | str) -> bytes:
    content = data if isinstance(data, bytes) else Path(data).read_bytes()
    return hashlib.blake2b(content, digest_size=16).digest()


def _in_threads(look: Callable[[int], _Seen], places: Iterator[int], several: bool) -> Iterator[_Seen]:
    """In order. A stream reads forward only, so one thread asks it."""
    with ThreadPoolExecutor(THREADS if several else 1) as threads:
        while some := list(islice(places, AHEAD)):
            yield from threads.map(look, some)
