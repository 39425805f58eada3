"""The codes of one source, as training reads them: any sample by index, in windows of shards.

What is notable here: nothing but the source's record is looked at when it is opened, and of the files their sizes. An
epoch reads a few shards at a time, as it does of pictures, so that what a read brings along is used, and few files are
open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.data.accounts import check_captions
from common.data.config import SourceConfig
from common.data.sources import Account
from common.data.strings import StringTable
from common.data.windows import WindowOrder
from common.errors import UserError
from generation.codes.facts import read_facts
from generation.codes.record import SourceRecord, described, find_record, name_of_source, refuse_absent, told
from generation.codes.shard import CodeSample, captions_path, open_captions, open_shard, shard_path


class CodeSource:
    """All samples of one record.

    Args:
        root: the folder of codes.
        window: shards that are read at a time.

    Raises:
        UserError: files are missing, are of another length than was written, or hold no sample.
    """

    def __init__(self, root: Path, record: SourceRecord, window: int = 16) -> None:
        self.root, self.record, self.facts = root, record, read_facts(root)
        files = [entry for entry in record.files if entry.samples]
        if not files:
            raise UserError(
                f"{root}: none of the {record.total('count')} pictures of {name_of_source(record.source)} could be read"
            )
        bad = [
            path
            for entry in record.files
            for path in _misfits(root, entry.shard, entry.captions, entry.sizes)
        ]
        if bad:
            raise UserError(
                f"{bad[0]}: absent or cut short, one of {len(bad)} such files of codes; "
                "run generation/extract_codes.py with this recipe"
            )
        self._shards = StringTable(entry.shard for entry in files)
        self._captions = StringTable(entry.captions for entry in files)
        self._order = WindowOrder(np.array([entry.samples for entry in files]), window)

    @classmethod
    def of(cls, root: Path, stated: SourceConfig) -> CodeSource:
        """The codes of a recipe's source.

        Raises:
            UserError: as above, or there are none of that source, or none with a caption where captions are wanted.
        """
        read_facts(root)  # there, and of this version
        refuse_absent(root, [stated])
        record = find_record(root, described(stated))
        assert record is not None
        check_captions(stated, Account(record.total("samples"), record.total("captioned")))
        return cls(root, record, stated.window)

    def __len__(self) -> int:
        return len(self._order)

    def read(self, index: int) -> CodeSample:
        """Raises:
        UserError: a file is damaged or of other facts than the folder's, or a code is out of range.
        """
        number, row = self._order.place(index)
        shard = open_shard(shard_path(self.root, self._shards[number]))
        shard.facts.check(self.facts, shard.path)
        captions = open_captions(captions_path(self.root, self._captions[number]))
        if (captions.shard, len(captions.texts)) != (self._shards[number], len(shard)):
            raise UserError(
                f"{captions.path}: {len(captions.texts)} captions of shard {captions.shard}, where {len(shard)} of "
                f"{self._shards[number]} are wanted"
            )
        codes = shard.codes(row, row + 1)[0]
        return CodeSample(codes=codes, caption=captions.texts[row] or None, key=shard.keys[row])

    def sample(self, position: int, seed: int) -> CodeSample:
        """The sample at a position of this source's own endless order: a pure function of its arguments."""
        return self.read(self._order.shuffled(*divmod(position, len(self)), seed))


def told_codes(root: Path, sources: Iterable[SourceConfig]) -> list[str]:
    """A line for the codes of each of a recipe's sources.

    Raises:
        UserError: as `CodeSource.of`.
    """
    return [told(CodeSource.of(root, stated).record) for stated in sources]


def _misfits(root: Path, shard: str, captions: str, sizes: tuple[int, int]) -> list[Path]:
    paths = (shard_path(root, shard), captions_path(root, captions))
    return [path for path, size in zip(paths, sizes, strict=True) if _size(path) != size]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # twice as fast, of many
    except OSError:
        return -1
