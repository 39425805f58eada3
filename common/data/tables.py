"""Parquet tables, here or behind URLs: what their footers say, and their row groups, ready to be read row by row.

A row group can only be decoded whole. It is decoded once a node, into a file of Arrow's own format in the cache of
downloads, which all processes map into their memory: a row is then as near as a member of a tar.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from common import dist
from common.data.blobs import Stat, forget_open_files, is_url, open_blob, stat
from common.data.remote.cache import kept
from common.errors import FailedRead, UserError, refusing
from common.files import cache_file, whole_cache

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
LARGE = 1 << 30  # bytes of a row group, which one process decodes in memory
AT_ONCE = 16  # footers that are asked for
FEW = 100  # tables, of which nobody needs a bar


@dataclass(frozen=True)
class Footer:
    """What a table says of itself.

    Args:
        size, version: of the file, as `stat` gives them.
        rows: of each row group.
        nulls: column -> of each row group, rows without a value; None where the writer did not count them.
        largest: bytes of the largest row group.
        schema: Arrow's, serialised, in base64.
    """

    size: int
    version: str
    rows: list[int]
    nulls: dict[str, list[int] | None]
    largest: int
    schema: str

    @property
    def found(self) -> Stat:
        return Stat(self.size, self.version)

    def arrow_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))


def read_footers(paths: Sequence[str]) -> list[Footer | str]:
    """A footer for each table; where it cannot be read, why not."""
    forget_open_files()  # a table may have been written anew since this process last read it
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(_footer_or_reason, paths)
        return list(
            tqdm(found, total=len(paths), desc="footers", disable=not dist.is_main() or len(paths) < FEW)
        )


def _footer_or_reason(path: str) -> Footer | str:
    try:
        return read_footer(path)
    except UserError as error:
        return str(error)


def read_footer(path: str) -> Footer:
    """From the cache, where it is of this version of the file.

    Raises:
        UserError: it cannot be read, or is no parquet.
    """
    found = stat(path)
    file = cache_file("tables", path, found, suffix=".json")
    try:
        return Footer(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        footer = _asked_footer(path, found)
    with whole_cache(file) as cached:
        cached.write(json.dumps(asdict(footer)).encode())
    return footer


def _asked_footer(path: str, found: Stat) -> Footer:
    import pyarrow.parquet as pq

    with refusing(f"{path}: no parquet table, or a damaged one"), open_blob(path, cached=False) as blob:
        told = pq.ParquetFile(blob)
        groups = [told.metadata.row_group(number) for number in range(told.metadata.num_row_groups)]
        columns = [told.metadata.schema.column(number).path for number in range(len(told.schema.names))]
        nulls: dict[str, list[int] | None] = {}
        for number, column in enumerate(columns):
            counts = [_nulls(group.column(number).statistics) for group in groups]
            nulls[column] = None if None in counts else [count for count in counts if count is not None]
        largest = max((group.total_byte_size for group in groups), default=0)
        if largest > LARGE:
            log.warning(
                "%s: a row group of %.1f GB: smaller ones, of some 100 MB, are read faster",
                path,
                largest / 1e9,
            )
        with whole_cache(_metadata_file(path, found)) as cached:
            told.metadata.write_metadata_file(cached)
        schema = base64.b64encode(told.schema_arrow.serialize().to_pybytes()).decode()
        return Footer(*found, [group.num_rows for group in groups], nulls, largest, schema)


def _metadata_file(path: str, found: Stat) -> Path:
    """The footer itself, so that a row group costs no request but its own."""
    return cache_file("tables", path, found, suffix=".footer")


def _nulls(statistics: Any) -> int | None:
    return int(statistics.null_count) if statistics is not None and statistics.has_null_count else None


@lru_cache(maxsize=32)  # two windows; they are mapped, so they cost no memory of this process
def row_group(path: str, found: Stat, number: int, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of a row group of the table that `found` describes.

    Raises:
        FailedRead: it cannot be read or decoded, or the table is another one by now.
    """
    import pyarrow as pa

    try:
        # What nobody has decoded yet is read from the file as it is now.
        content = kept(("rows", path, found, number, columns), lambda: _decoded(path, found, number, columns))
        return pa.ipc.open_file(pa.py_buffer(content)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise FailedRead(f"{path}: row group {number} cannot be read: {error}") from error


def _decoded(path: str, found: Stat, number: int, columns: tuple[str, ...]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_url(path) and stat(path) != found:
        raise FailedRead(f"{path}: changed since it was opened; start anew to read what is there now")
    try:
        metadata = pq.read_metadata(_metadata_file(path, found))
    except (OSError, pa.ArrowException):  # the cache was emptied meanwhile
        metadata = None
    with open_blob(path, cached=False) as blob:
        # One thread: the process may have been forked, and others decode beside it.
        table = pq.ParquetFile(blob, metadata=metadata).read_row_group(
            number, columns=list(columns), use_threads=False
        )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())
