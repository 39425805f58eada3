"""WebDataset shards: tars, read at random by offset instead of streamed, in the order of `windows`."""

from __future__ import annotations

import json
from pathlib import Path

from common.data.blobs import listed, read_at
from common.data.config import SourceConfig
from common.data.sources import IndexedSource, RawImage
from common.data.strings import StringTable
from common.data.tar_index import count_samples, load_index
from common.data.windows import WindowOrder
from common.errors import UserError


class ShardSource(IndexedSource):
    """Keys are `shard file name/sample key`. Captions are a sample's `.txt`, or one field of its `.json`."""

    def __init__(self, config: SourceConfig) -> None:
        self.name = config.path
        self._caption_field = config.caption_column or "caption"
        paths = shard_paths(config.path)
        self._paths = StringTable(paths)
        self._order = WindowOrder(count_samples(paths), config.window)
        if not len(self._order):
            raise UserError(f"{config.path}: no images in {len(paths)} shards")

    def __len__(self) -> int:
        return len(self._order)

    def read(self, index: int) -> RawImage:
        shard, row = self._order.place(index)
        path = self._paths[shard]
        members = load_index(path)
        key = f"{Path(path).name}/{members.keys[row].decode('utf-8', 'surrogateescape')}"
        caption = None
        offset, size, is_json = (int(number) for number in members.texts[row])
        if size:
            caption = self._caption(read_at(path, offset, size), bool(is_json))
        return RawImage(key, read_at(path, *(int(number) for number in members.images[row])), caption)

    def _caption(self, text: bytes, is_json: bool) -> str | None:
        """A caption that cannot be read is no caption: the image is still good."""
        try:
            value = json.loads(text) if is_json else text.decode("utf-8").strip()
        except ValueError:
            return None
        if is_json:
            value = value.get(self._caption_field) if isinstance(value, dict) else None
        return value if isinstance(value, str) and value else None

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        return self._order.shuffled(epoch, offset, seed)


def shard_paths(pattern: str) -> list[str]:
    """Sorted paths of the shards that a folder, a brace range or a glob names."""
    return listed(pattern, (".tar",), "shards")
