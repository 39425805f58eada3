"""From a recipe's `SourceConfig` to the source that it describes."""

from __future__ import annotations

from common.data.config import SourceConfig
from common.data.folder import FolderSource
from common.data.hub import HubSource
from common.data.hub_stream import HubStream
from common.data.shards import ShardSource
from common.data.sources import IndexedSource, Source
from common.errors import UserError


def open_source(config: SourceConfig, lanes: int = 1) -> Source:
    """Open a source. `lanes` matters to streamed datasets only, which read so many parts side by side.

    Raises:
        UserError: nothing there, nothing to read in it, or damaged; names the path.
    """
    if config.kind == "folder":
        return FolderSource(config)
    if config.kind == "shards":
        return ShardSource(config)
    return HubStream(config, lanes) if config.streaming else HubSource(config)


def open_indexed(config: SourceConfig) -> IndexedSource:
    """Open a source whose images are each read once.

    Raises:
        UserError: as `open_source`, or it can only be streamed.
    """
    source = open_source(config)
    if not isinstance(source, IndexedSource):
        raise UserError(f"{config.path}: streaming: here each image is read once; set it to false")
    return source
