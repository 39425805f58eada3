"""WebDataset shards: local tars, read at random by offset instead of streamed.

Shuffling keeps locality: shards are permuted per epoch, taken in windows of `window` shards, and samples are
permuted within a window. Nothing is buffered, so any position of any epoch is reached directly.
"""

from __future__ import annotations

import glob
import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.data.blobs import read_at
from common.data.config import SourceConfig
from common.data.order import derive_key, permuted
from common.data.sources import IndexedSource, RawImage
from common.data.strings import StringTable
from common.data.tar_index import count_samples, load_index
from common.errors import UserError


class ShardSource(IndexedSource):
    """Keys are `shard file name/sample key`. Captions are a sample's `.txt`, or one field of its `.json`."""

    def __init__(self, config: SourceConfig) -> None:
        self.name = config.path
        self._window = config.window
        self._caption_field = config.caption_column or "caption"
        paths = shard_paths(config.path)
        self._paths = StringTable(paths)
        self._ends = np.cumsum(count_samples(paths), dtype=np.int64)  # per shard: samples up to its end
        if not self._ends[-1]:
            raise UserError(f"{config.path}: no images in {len(paths)} shards")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> RawImage:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[shard]
        members = load_index(path)
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        key = f"{Path(path).name}/{members.keys[row].decode('utf-8', 'surrogateescape')}"
        caption = None
        offset, size, is_json = (int(number) for number in members.texts[row])
        if size:
            caption = self._caption(read_at(path, offset, size), bool(is_json))
        return RawImage(key, read_at(path, *(int(number) for number in members.images[row])), caption)

    def _caption(self, text: bytes, is_json: bool) -> str | None:
        """A caption that cannot be read is no caption: the image is still good."""
        try:
            value = json.loads(text) if is_json else text.decode("utf-8").strip()
        except ValueError:
            return None
        if is_json:
            value = value.get(self._caption_field) if isinstance(value, dict) else None
        return value if isinstance(value, str) and value else None

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        shards, ends, window_ends = _epoch_plan(self, derive_key(seed, "shards", epoch))
        window = int(np.searchsorted(window_ends, offset, side="right"))
        start = int(window_ends[window - 1]) if window else 0
        length = int(window_ends[window]) - start
        place = start + permuted(offset - start, length, derive_key(seed, "window", epoch, window))
        order = int(np.searchsorted(ends, place, side="right"))
        row = place - (int(ends[order - 1]) if order else 0)
        shard = int(shards[order])
        return row + (int(self._ends[shard - 1]) if shard else 0)


@lru_cache(maxsize=4)  # consecutive positions share it; at an epoch's turn, two are in use
def _epoch_plan(source: ShardSource, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shards of an epoch in order, and the samples up to the end of each shard and of each window."""
    number = len(source._ends)
    shards = np.array([permuted(place, number, key) for place in range(number)])
    ends = np.cumsum(np.diff(source._ends, prepend=0)[shards])
    last = np.minimum(np.arange(source._window, number + source._window, source._window), number) - 1
    return shards, ends, ends[last]


def shard_paths(pattern: str) -> list[str]:
    """Sorted paths of the shards that a folder, a brace range or a glob names."""
    if Path(pattern).is_dir():
        pattern = f"{pattern}/**/*.tar"
    paths: list[str] = []
    for part in expand_braces(pattern):
        if glob.has_magic(part):
            path = Path(part)
            matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
            found = [str(match) for match in matches if not match.name.startswith(".")]
        else:
            found = [part]
        if not found:
            raise UserError(f"{part}: no shards found")
        paths += found
    return sorted(paths)


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{x,y}.tar` -> one string per shard, as a shell would expand them."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if ends is not None:
        width = len(ends[1]) if ends[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        choices = match[1].split(",")
    tails = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + choice + tail for choice in choices for tail in tails]
