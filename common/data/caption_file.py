"""The records of a caption file, in the formats in which captions are handed on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from common.errors import UserError, refusing
from common.text import read_json, read_json_lines, read_text

Record = dict[str, Any]


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """(where it stands, for errors; a record), by the file's ending: .csv, .parquet, .json (a list), else JSON Lines.

    Raises:
        UserError: it cannot be read, is damaged, or holds something else than objects; names the line.
    """
    kinds = {".csv": _csv, ".parquet": _parquet, ".json": _json}
    for where, record in kinds.get(path.suffix.lower(), _json_lines)(path):
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected an object, found {type(record).__name__}")
        yield where, record


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    return ((f"{path}: line {number}", record) for number, record in read_json_lines(path, nan=True))


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    records = read_json(path, nan=True)
    if not isinstance(records, list):
        raise UserError(f"{path}: expected a list of objects, found {type(records).__name__}")
    return ((f"{path}: record {number}", record) for number, record in enumerate(records, 1))


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with refusing(f"{path}: no valid CSV", csv.Error):
        for number, record in enumerate(csv.DictReader(StringIO(read_text(path), newline="")), 2):
            yield f"{path}: row {number}", record


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    with (
        refusing(f"{path}: no valid parquet", OSError, pyarrow.ArrowException, ValueError),
        ParquetFile(path) as file,
    ):
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", record
