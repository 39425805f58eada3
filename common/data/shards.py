"""WebDataset shards: tars, read at random by offset instead of streamed, in the order of `windows`."""

from __future__ import annotations

import posixpath
from collections import Counter
from functools import lru_cache, partial

import numpy as np

from common.data.blobs import listed
from common.data.config import SourceConfig
from common.data.sources import Account, IndexedSource, Part, RawImage
from common.data.strings import StringTable
from common.data.tars.captions import caption_of
from common.data.tars.catalogue import catalogued, refuse_damaged
from common.data.tars.names import is_picture
from common.data.tars.selection import Selection
from common.data.tars.shard_index import ShardIndex
from common.data.tars.store import load_index
from common.data.windows import WindowOrder
from common.errors import UserError

ENDINGS = (
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tar.lz4",
)  # compressed ones, to be refused


class ShardSource(IndexedSource):
    """Keys are `shard/sample`: the shard's file name, or where two are alike, its path below their common folder."""

    def __init__(self, config: SourceConfig) -> None:
        """Raises:
        UserError: there are no shards or no pictures, too many damaged shards, or the recipe names what is not there.
        """
        self.name = config.path
        catalogue = catalogued(shard_paths(config.path))
        refuse_damaged(catalogue.damaged, catalogue.total, config.path, config.max_damaged_shards)
        self._selection, self._unconditional = Selection.stated(config), config.unconditional
        counts = catalogue.counts
        self._selection.check(config.path, counts, captions=not config.unconditional)
        self._account = self._selection.account(catalogue)
        self._paths = StringTable(catalogue.paths)
        self._names = StringTable(part_names(catalogue.paths))
        self._sizes = counts.numbers["size"]
        self._versions = StringTable(counts.rest["version"])
        self._order = WindowOrder(self._selection.count(counts), config.window)
        if not len(self._order):
            left_out = "".join(f"; {count} {reason}" for reason, count in self._account.left_out.items())
            raise UserError(f"{config.path}: no images in {len(catalogue.paths)} shards{left_out}")

    def __len__(self) -> int:
        return len(self._order)

    def account(self) -> Account:
        return self._account

    def parts(self) -> list[Part]:
        counts = np.diff(self._order.ends, prepend=0)
        starts = self._order.ends - counts
        facts = zip(self._names, self._sizes, self._versions, starts, counts, strict=True)
        return [
            Part(name, f"{size}-{version}", int(start), int(count))
            for name, size, version, start, count in facts
        ]

    def read(self, index: int) -> RawImage:
        """Raises:
        FailedRead: the shard cannot be read now, or changed since the source was opened.
        """
        shard, row = self._order.place(index)
        path = self._paths[shard]
        members, rows = _rows(path, int(self._sizes[shard]), self._versions[shard], self._selection)
        sample = int(rows[row])
        of_sample = members.members(sample)
        texts = {
            ending: partial(members.read, path, member)
            for ending, member in of_sample.items()
            if not is_picture(ending)
        }
        picture = members.read(path, self._selection.picture_of(of_sample))
        key = f"{self._names[shard]}/{members.keys[sample]}"
        return RawImage(
            key, picture, None if self._unconditional else caption_of(texts, self._selection.caption)
        )

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        return self._order.shuffled(epoch, offset, seed)


@lru_cache(maxsize=64)  # a few windows of shards
def _rows(path: str, size: int, version: str, selection: Selection) -> tuple[ShardIndex, np.ndarray]:
    index = load_index(path, size, version)
    return index, selection.rows(index)


def shard_paths(pattern: str) -> list[str]:
    """Sorted paths of the shards that a folder, a brace range or a glob names, each once."""
    return sorted(set(listed(pattern, ENDINGS, "shards")))


def part_names(paths: list[str]) -> list[str]:
    """Names that are the same wherever the shards are mounted: file names, if no two are alike."""
    names = [path.rpartition("/")[2] for path in paths]
    if max(Counter(names).values(), default=1) == 1:
        return names
    common = posixpath.commonpath(paths)
    return [posixpath.relpath(path, common) for path in paths]
