"""From a recipe's `ConversationSource` to the place that it describes."""

from __future__ import annotations

from common.data.config import SourceConfig
from understanding.config import ConversationSource
from understanding.layouts import Fields
from understanding.records.json_file import JsonFile
from understanding.records.source import Records


def fields_of(source: ConversationSource) -> Fields:
    """The fields that a record is read by; a shard's pictures are members, and no field."""
    pictures = None if source.kind == "shards" else source.image_column
    return Fields(pictures, source.conversation_column)


def open_records(source: ConversationSource) -> Records:
    """Raises:
    UserError: nothing there, nothing to read in it, or damaged; names the path.
    """
    if source.kind == "json":
        return JsonFile(source.annotations)
    if source.kind == "shards":
        from understanding.records.tars import Tars

        return Tars(source.annotations, source.image_column, source.max_damaged_shards)
    from understanding.records.tables import open_hub, open_parquet

    if source.kind == "parquet":
        return open_parquet(source.annotations, fields_of(source))
    config = SourceConfig(
        kind="hub",
        path=source.annotations,
        subset=source.subset,
        split=source.split,
        revision=source.revision,
    )
    return open_hub(config, fields_of(source))
