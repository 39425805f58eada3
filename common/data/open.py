"""From a recipe's `SourceConfig` to the source that it describes."""

from __future__ import annotations

from dataclasses import replace

from common.data.config import SourceConfig
from common.data.folder import FolderSource
from common.data.hub import HubSource
from common.data.hub_stream import HubStream
from common.data.parquet import ParquetSource
from common.data.shards import ShardSource
from common.data.sources import IndexedSource, Source
from common.errors import UserError


def open_source(config: SourceConfig, lanes: int = 1, captions: bool = True) -> Source:
    """Open a source.

    Args:
        lanes: matters to streamed datasets only, which read so many parts side by side.
        captions: whether they are wanted; where they are not, they are only looked for if the recipe says where.

    Raises:
        UserError: nothing there, nothing to read in it, or damaged; names the path.
    """
    if not captions and config.captions is None and config.caption_column is None:
        config = replace(config, unconditional=True)
    if config.kind == "folder":
        return FolderSource(config)
    if config.kind == "shards":
        return ShardSource(config)
    if config.kind == "parquet":
        return ParquetSource(config)
    return HubStream(config, lanes) if config.streaming else HubSource(config)


def open_indexed(config: SourceConfig, captions: bool = True) -> IndexedSource:
    """Open a source whose images are each read once; `captions` as in `open_source`.

    Raises:
        UserError: as `open_source`, or it can only be streamed.
    """
    source = open_source(config, captions=captions)
    if not isinstance(source, IndexedSource):
        raise UserError(f"{config.path}: streaming: here each image is read once; set it to false")
    return source
