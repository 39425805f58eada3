"""Parquet tables with a picture a row, read at random, row group by row group in the order of `windows`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from common.data.blobs import listed
from common.data.config import SourceConfig
from common.data.hub_rows import TEXTS, caption_in, check_images, chosen_columns, image_data
from common.data.shards import part_names
from common.data.sources import Account, IndexedSource, Part, RawImage
from common.data.strings import StringTable
from common.data.tables import Footer, Stat, read_footers, row_group
from common.data.tars.catalogue import refuse_damaged
from common.data.windows import WindowOrder
from common.errors import UserError


class ParquetSource(IndexedSource):
    """Keys are `table/row`. Pictures are bytes, Hugging Face's pair of bytes and path, base64, URLs, or paths that
    start from the table's folder or the source's.
    """

    def __init__(self, config: SourceConfig) -> None:
        """Raises:
        UserError: there are no tables, too many damaged ones, no such column, or one of another type.
        """
        self.name, self._config = config.path, config
        paths = sorted(set(listed(config.path, (".parquet",), "parquet files")))
        footers, self._account_damaged = _sound(paths, config)
        self._caption = _chosen(footers, config)
        self._columns = tuple(
            dict.fromkeys([config.image_column, *([self._caption] if self._caption else [])])
        )
        self._paths = StringTable(list(footers))
        self._names = StringTable(part_names(list(footers)))
        found = list(footers.values())
        self._sizes = np.array([footer.size for footer in found], dtype=np.int64)
        self._versions = StringTable(footer.version for footer in found)
        self._groups = np.cumsum(
            [len(footer.rows) for footer in found]
        )  # per table: row groups up to its end
        self._order = WindowOrder(
            np.array([rows for footer in found for rows in footer.rows], dtype=np.int64), config.window
        )
        self._account = self._counted(found)
        if not len(self._order):
            raise UserError(f"{config.path}: no rows in {len(footers)} parquet files")
        if str(found[0].arrow_schema().field(config.image_column).type) in TEXTS:
            row, folder, _ = self._row(0)
            check_images(row[config.image_column], config, folder)

    def __len__(self) -> int:
        return len(self._order)

    def account(self) -> Account:
        return self._account

    def _counted(self, footers: list[Footer]) -> Account:
        captions: int | None = 0
        if self._caption is not None:
            nulls = [footer.nulls.get(self._caption) for footer in footers]
            known = [sum(counts) for counts in nulls if counts is not None]
            captions = len(self) - sum(known) if len(known) == len(nulls) else None
        return Account(len(self), captions, self._account_damaged)

    def parts(self) -> list[Part]:
        ends = np.concatenate([[0], self._order.ends])[self._groups]
        counts = np.diff(ends, prepend=0)
        facts = zip(self._names, self._sizes, self._versions, ends - counts, counts, strict=True)
        return [
            Part(name, f"{size}-{version}", int(start), int(count))
            for name, size, version, start, count in facts
        ]

    def read(self, index: int) -> RawImage:
        """Raises:
        FailedRead: the row group cannot be read now, or its table changed since the source was opened.
        """
        row, folder, key = self._row(index)
        caption = caption_in(row[self._caption], self.name) if self._caption else None
        return RawImage(key, image_data(row[self._config.image_column], self._config, folder), caption)

    def _row(self, index: int) -> tuple[dict[str, Any], str, str]:
        """A row's cells, the folder of its table, its key."""
        group, row = self._order.place(index)
        table = int(np.searchsorted(self._groups, group, side="right"))
        first = int(self._groups[table - 1]) if table else 0  # row group of the table
        start = int(self._order.ends[first - 1]) if first else 0
        path, found = self._paths[table], Stat(int(self._sizes[table]), self._versions[table])
        rows = row_group(path, found, group - first, self._columns)
        cells = {column: _value(rows[column][row]) for column in self._columns}
        return cells, path.rpartition("/")[0], f"{self._names[table]}/{index - start}"

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        return self._order.shuffled(epoch, offset, seed)


def _value(cell: Any) -> Any:
    """A cell as Python has it; None where it says to be text and is no UTF-8."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return None


def _sound(paths: list[str], config: SourceConfig) -> tuple[dict[str, Footer], dict[str, int]]:
    """The footers of the tables that can be read, and how many cannot."""
    footers: dict[str, Footer] = {}
    damaged: dict[str, str] = {}
    for path, told in zip(paths, read_footers(paths), strict=True):
        if isinstance(told, Footer):
            footers[path] = told
        else:
            damaged[path] = told
    refuse_damaged(damaged, len(paths), config.path, config.max_damaged_shards)
    return footers, dict(Counter("damaged tables" for _ in damaged))


def _chosen(footers: dict[str, Footer], config: SourceConfig) -> str | None:
    """The column with captions; all tables must have the same two columns, of types that can be read."""
    import datasets

    captions: dict[str | None, str] = {}
    for path in {footer.schema: path for path, footer in footers.items()}.values():  # one of each schema
        schema = footers[path].arrow_schema()
        features = datasets.Features.from_arrow_schema(schema)
        captions[chosen_columns(schema.names, features, config, path)] = path
    if len(captions) > 1:
        (one, first), (other, second) = list(captions.items())[:2]
        raise UserError(
            f"{config.path}: captions are in {one!r} in {first}, and in {other!r} in {second}: caption_column must "
            "name a column that all tables have"
        )
    return next(iter(captions))
