"""Codes as a table, for other programs."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import UserError
from common.files import whole_file
from generation.codes.facts import read_facts
from generation.codes.record import name_of_source
from generation.codes.shard import Captions, Shard, captions_path, shard_path
from generation.codes.survey import AT_ONCE, sources_of


def export(root: Path, target: Path) -> int:
    """Write all codes into one parquet file; returns its rows.

    Columns: `source`, `key`, `caption` (null where there is none), `codes` (N uint16, in raster order). The file's
    metadata has `vqrae.codes`: what `codes.json` says.

    Raises:
        UserError: no codes, damaged ones, or it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if target.suffix != ".parquet":
        raise UserError(f"{target}: expected a name that ends in .parquet")
    facts, written = read_facts(root), 0
    tokens = facts.grid[0] * facts.grid[1]
    schema = pa.schema(
        [
            ("source", pa.string()),
            ("key", pa.string()),
            ("caption", pa.string()),
            ("codes", pa.list_(pa.uint16(), tokens)),
        ],
        metadata={"vqrae.codes": json.dumps(json.loads(facts.to_json()))},
    )
    records = sources_of(root)
    with whole_file(target) as partial, pq.ParquetWriter(partial, schema) as writer:
        for record in records:
            name = name_of_source(record.source)
            for entry in record.files:
                shard, captions = (
                    Shard(shard_path(root, entry.shard)),
                    Captions(captions_path(root, entry.captions)),
                )
                for first in range(0, len(shard), AT_ONCE):
                    rows = range(first, min(first + AT_ONCE, len(shard)))
                    flat = shard.codes(rows.start, rows.stop).astype("u2").ravel()
                    columns = [
                        pa.array([_text(name)] * len(rows), pa.string()),
                        pa.array([_text(shard.keys[row]) for row in rows], pa.string()),
                        pa.array([_text(captions.texts[row]) or None for row in rows], pa.string()),
                        pa.FixedSizeListArray.from_arrays(pa.array(flat), tokens),
                    ]
                    writer.write_table(pa.table(columns, schema=schema))
                    written += len(rows)
    return written


def _text(text: str) -> str:
    """A table holds UTF-8 alone; a name that is none is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
