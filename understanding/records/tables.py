"""Records in tables: parquet files and Hugging Face datasets, pictures in them or named by paths.

They are read at random, so parquet files are laid out as Arrow files in the cache of `datasets` when they are opened
for the first time, as `datasets` does with all that it loads; from then on they are mapped into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from common.data.blobs import listed, stat
from common.data.config import SourceConfig
from common.data.hub import load_rows
from common.data.hub_rows import loading
from common.errors import UserError, one_line, refusing
from understanding.layouts import TURNS, BadSample, Fields
from understanding.records.source import HELD, Found, Records

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

TOGETHER = 256  # rows that are scanned at a time


class Tables(Records):
    """`place` is a row; `size` is nothing.

    Args:
        rows: of a loaded dataset. version: of where they come from.
        fields: those that the recipe names must be there.
    """

    unit = "row"

    def __init__(self, name: str, rows: Dataset, version: tuple[object, ...], fields: Fields) -> None:
        self.name, self._version = name, version
        for column in (fields.pictures, fields.turns):
            if column is not None and column not in rows.column_names:
                raise UserError(
                    f"{name}: no column {column!r} in this dataset: {', '.join(rows.column_names)}"
                )
        self._rows = rows.with_format("arrow")
        self._read_turns = {*TURNS, fields.turns}
        self.total = len(rows)

    def fingerprint(self) -> tuple[object, ...]:
        return self._version

    def scan(self) -> Iterator[Found]:
        place = 0
        for first in range(0, self.total, TOGETHER):
            with refusing(f"{self.name}: from row {first} on"):
                batches = self._rows[first : first + TOGETHER].to_batches()
            for batch in batches:
                for record in self._records(batch):
                    yield Found(place, 0, record)
                    place += 1

    def read(self, place: int, size: int) -> Any:
        try:
            return self._rows[place].to_pylist()[0]
        except UnicodeDecodeError as error:
            raise _no_text(error) from error

    def _records(self, batch: pa.RecordBatch) -> list[Any]:
        try:
            columns = {name: self._seen(name, batch.column(name)) for name in batch.schema.names}
        except UnicodeDecodeError as error:  # strings of a table need not be valid
            if batch.num_rows == 1:
                return [_no_text(error)]
            return [self._records(batch.slice(row, 1))[0] for row in range(batch.num_rows)]
        return [{name: column[row] for name, column in columns.items()} for row in range(batch.num_rows)]

    def _seen(self, name: str, column: pa.Array) -> list[Any]:
        """The values of a column, without the bytes of pictures, and without numbers that nobody reads."""
        import pyarrow as pa

        if _holds_bytes(column.type):
            return _held(column)
        if name in self._read_turns or not pa.types.is_nested(column.type):
            return column.to_pylist()
        strings = pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type)
        return (
            column.to_pylist()
            if strings
            else [True if there else None for there in column.is_valid().to_pylist()]
        )


def _no_text(error: UnicodeDecodeError) -> BadSample:
    return BadSample("text that is none", f"a cell is no UTF-8: {one_line(error)}")


def open_hub(config: SourceConfig, fields: Fields) -> Tables:
    """A dataset of the hub, or of a local folder.

    Raises:
        UserError: it cannot be loaded, or has no such column.
    """
    rows = load_rows(config)
    return Tables(config.path, rows, ("hub", config.path, rows._fingerprint, len(rows)), fields)


def open_parquet(pattern: str, fields: Fields) -> Tables:
    """Parquet files: a folder, a glob, or a brace range.

    Raises:
        UserError: there are none, one is damaged, or they have no such column.
    """
    import datasets

    paths = listed(pattern, (".parquet",), "parquet files")
    versions = [stat(path) for path in paths]
    with loading(SourceConfig(kind="hub", path=pattern)):
        rows = datasets.load_dataset("parquet", data_files=paths, split="train")
    return Tables(pattern, rows, ("parquet", *zip(paths, versions, strict=True)), fields)


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    return pa.types.is_struct(kind) and any(
        pa.types.is_binary(kind.field(place).type) for place in range(kind.num_fields)
    )


def _held(column: pa.Array) -> list[Any]:
    """`HELD` for each picture, None for each that is not there, in lists as the column has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        within = _held(column.flatten())  # without what null lists may cover
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
        ends = list(accumulate(lengths, initial=0))
        return [within[start:end] for start, end in pairwise(ends)]
    parts = column.flatten() if pa.types.is_struct(column.type) else [column]
    there = [False] * len(column)
    for part in parts:  # bytes, or a path
        there = [before or now for before, now in zip(there, part.is_valid().to_pylist(), strict=True)]
    return [HELD if held else None for held in there]
