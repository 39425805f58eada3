"""A streamed dataset with positions: what comes at position q is fixed, though files are only read forward.

The dataset's shards (its files; row groups, if it has fewer files than lanes) are dealt to L lanes. Position
q is sample q // L of lane q % L. A lane runs through its shards in an order drawn per epoch, each shard in
blocks of `stream_block` samples, each block permuted. The reader is only a cache: it skips forward, and
starts the shard again when asked to go back. Shard lengths stand in the footers of parquet files; of others they are
learned by reading to the end, and kept in the data cache. So a resumed run opens the shard it stopped in instead of
reading all before it, with any number of processes.

Of `datasets` this uses `shard` and `iter(batch_size)`. Plain iteration would not do: inside a DataLoader
worker it splits what it is given among the workers, and a lane of one shard then comes out empty in all
workers but the first.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.config import SourceConfig
from common.data.hub_rows import caption_in, image_data, is_saved_to_disk, loading, select_columns
from common.data.order import derive_key, permuted
from common.data.sources import Account, RawImage, Source
from common.data.tables import Footer, read_footers
from common.errors import UserError, one_line
from common.files import cache_file, whole_cache

if TYPE_CHECKING:
    from datasets import IterableDataset

Row = dict[str, Any]


class HubStream(Source):
    """Keys are `shard/row`."""

    def __init__(self, config: SourceConfig, lanes: int) -> None:
        self.name, self._config = config.path, config
        rows, self._caption, identity, lengths = _open_stream(config, lanes)
        shards = rows.num_shards
        # A divisor of `lanes`, so that a position's lane here follows from its lane in the stream.
        number = max(number for number in range(1, min(lanes, shards) + 1) if lanes % number == 0)
        reader = _ShardReader(config.path, rows, config.stream_block, identity, lengths)
        self.lanes = number
        self._samples = sum(lengths.values()) if lengths else None
        # Where several lanes of the stream share one of ours, they may be some samples apart.
        kept = 1 if number == lanes else 4
        self._lanes = [_Lane(reader, list(range(lane, shards, number)), kept) for lane in range(number)]

    def account(self) -> Account:
        return Account(self._samples, None if self._caption else 0)

    def sample(self, position: int, seed: int, attempt: int = 0) -> RawImage:
        offset, lane = divmod(position, len(self._lanes))
        shard, number, row = self._lanes[lane].row(offset, derive_key(seed, "lane", lane), attempt)
        caption = caption_in(row[self._caption], self.name) if self._caption else None
        return RawImage(
            f"{shard}/{number}", image_data(row[self._config.image_column], self._config), caption
        )


@dataclass(frozen=True)
class _Block:
    """Rows `start` ... of a shard, which stand at `first` ... of a lane's order, before their permutation."""

    key: int
    first: int
    epoch: int
    shard: int
    start: int
    rows: list[Row]

    def holds(self, offset: int, key: int) -> bool:
        return self.key == key and 0 <= offset - self.first < len(self.rows)


class _Lane:
    """An endless sequence over some of the dataset's shards."""

    def __init__(self, reader: _ShardReader, shards: list[int], kept: int) -> None:
        self._reader, self._shards = reader, shards
        self._cursor = _Cursor()
        self._blocks: deque[_Block] = deque(maxlen=kept)
        self._process = os.getpid()

    def row(self, offset: int, key: int, attempt: int) -> tuple[int, int, Row]:
        """(shard, row number, row) of the sample at `offset` of this lane's order under `key`."""
        block = next((block for block in self._blocks if block.holds(offset, key)), None)
        if block is None:
            block = self._read(offset, key)
            self._blocks.append(block)
        block_key = derive_key(key, "block", block.epoch, block.shard, block.start)
        place = permuted(offset - block.first, len(block.rows), block_key)
        if attempt:
            place = derive_key(block_key, "substitute", offset, attempt) % len(block.rows)
        return block.shard, block.start + place, block.rows[place]

    def _read(self, offset: int, key: int) -> _Block:
        if self._process != os.getpid():  # forked: open files would be shared with the parent
            self._process, self._cursor = os.getpid(), _Cursor()
        while True:
            epoch, shard, number = self._locate(offset, key)
            start = number - number % self._reader.block
            rows = self._reader.read(self._cursor, shard, start)
            block = _Block(key, offset - (number - start), epoch, shard, start, rows)
            if block.holds(offset, key):
                return block
            # The shard ended before; its length is known now, so look again.

    def _locate(self, offset: int, key: int) -> tuple[int, int, int]:
        """(epoch, shard, row number) of `offset`; where lengths are unknown, in the first unknown shard."""
        lengths = [self._reader.length(shard) for shard in self._shards]
        epoch = 0
        if None not in lengths:
            total = sum(length for length in lengths if length is not None)
            if not total:
                raise UserError(f"{self._reader.name}: no samples in shards {self._shards}")
            epoch, offset = divmod(offset, total)
        order = derive_key(key, "epoch", epoch)
        for place in range(len(self._shards)):
            turn = permuted(place, len(self._shards), order)
            length = lengths[turn]
            if length is None or offset < length:
                return epoch, self._shards[turn], offset
            offset -= length
        raise AssertionError("an epoch ends within its shards")

    def __getstate__(self) -> dict[str, Any]:  # open files stay in their process
        return {**self.__dict__, "_cursor": _Cursor(), "_blocks": deque(maxlen=self._blocks.maxlen)}


class _Cursor:
    """An open shard and the row that it yields next."""

    shard: int | None = None
    row = 0
    batches: Iterator[Row] = iter(())


class _ShardReader:
    """Reads blocks of rows from the shards of a streamed dataset, and learns the shards' lengths."""

    def __init__(
        self,
        name: str,
        rows: IterableDataset,
        block: int,
        identity: tuple[object, ...],
        lengths: dict[int, int],
    ) -> None:
        self.name, self.block = name, block
        self._rows, self._identity = rows, identity
        self._shards = rows.num_shards
        self._lengths = lengths

    def length(self, shard: int) -> int | None:
        """Rows in a shard, from its footer, or once somebody has read it to its end."""
        if shard not in self._lengths:
            try:
                self._lengths[shard] = int(self._length_file(shard).read_text())
            except (OSError, ValueError):
                return None
        return self._lengths[shard]

    def _length_file(self, shard: int) -> Path:
        return cache_file("streams", *self._identity, self._shards, shard, suffix=".txt")

    def read(self, cursor: _Cursor, shard: int, start: int) -> list[Row]:
        """Rows `start` to `start + block` of a shard, where `start` is a multiple of `block`."""
        try:
            if cursor.shard != shard or cursor.row > start:
                one = self._rows.shard(num_shards=self._shards, index=shard)
                cursor.shard, cursor.row, cursor.batches = shard, 0, iter(one.iter(batch_size=self.block))
            while True:
                columns = next(cursor.batches, None)
                size = len(next(iter(columns.values()))) if columns else 0
                first = cursor.row
                cursor.row += size
                if size < self.block:  # the shard's end
                    self._learn(shard, cursor.row)
                    cursor.shard = None
                    if first < start:
                        return []
                if first == start or not size:
                    break
        except UserError:
            raise
        except Exception as error:
            cursor.shard = None
            raise UserError(f"{self.name}: cannot read shard {shard}: {one_line(error)[:400]}") from error
        return [{name: columns[name][row] for name in columns} for row in range(size)] if columns else []

    def _learn(self, shard: int, length: int) -> None:
        file = self._length_file(shard)
        known = self.length(shard)
        if known is None:
            self._lengths[shard] = length
            with whole_cache(file) as cached:
                cached.write(str(length).encode())
        elif known != length:
            raise UserError(
                f"{self.name}: shard {shard} has {length} rows and had {known}; if that is right, "
                f"remove {file}"
            )


def _open_stream(
    config: SourceConfig, lanes: int
) -> tuple[IterableDataset, str | None, tuple[object, ...], dict[int, int]]:
    """The dataset, its column of captions, what its shard lengths depend on (files, revisions, split), and those
    lengths that are known."""
    import datasets

    if is_saved_to_disk(config.path):
        raise UserError(f"{config.path}: streaming: not for a dataset of save_to_disk, set it to false")
    with loading(config):
        builder = datasets.load_dataset_builder(config.path, config.subset, revision=config.revision)
        rows = builder.as_streaming_dataset(split=config.split)
        resharded = rows.num_shards < lanes
        if resharded:
            rows = rows.reshard()
        rows, captions = select_columns(rows, config)
    files = builder.config.data_files or {}
    versions = [
        (split, list(names), getattr(names, "origin_metadata", None)) for split, names in files.items()
    ]
    identity = (config.path, config.subset, config.split, config.revision, versions)
    lengths = (
        _lengths_in_footers(list(files.get(config.split, ())), resharded) if _is_parquet(builder) else []
    )
    known = dict(enumerate(lengths)) if len(lengths) == rows.num_shards else {}
    return rows, captions, identity, known


def _is_parquet(builder: Any) -> bool:
    """Whether its shards are parquet files, or their row groups, as they are."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    return isinstance(builder, Parquet) and builder.config.filters is None


def _lengths_in_footers(files: list[str], of_row_groups: bool) -> list[int]:
    """Rows of each file, or of each of their row groups; nothing where a footer cannot be read."""
    lengths: list[int] = []
    for footer in read_footers(files):
        if not isinstance(footer, Footer):
            return []
        lengths += footer.rows if of_row_groups else [sum(footer.rows)]
    return lengths
