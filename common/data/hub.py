"""Hugging Face datasets, from the hub or a local folder, read at random; `hub_stream` streams them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.data.config import SourceConfig
from common.data.hub_rows import image_data, is_saved_to_disk, loading, select_columns
from common.data.sources import IndexedSource, RawImage
from common.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


class HubSource(IndexedSource):
    """A downloaded or local dataset. Keys are row numbers."""

    def __init__(self, config: SourceConfig) -> None:
        self.name = config.path
        self._image, self._caption = config.image_column, config.caption_column
        self._rows = select_columns(_load(config), config)
        if not len(self._rows):
            raise UserError(f"{config.path}: split {config.split!r} has no rows")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> RawImage:
        row = self._rows[index]
        caption = row[self._caption] if self._caption else None
        return RawImage(str(index), image_data(row[self._image], self.name), caption)


def load_rows(config: SourceConfig) -> Dataset:
    """All columns, as they lie there.

    Raises:
        UserError: it cannot be loaded.
    """
    import datasets

    with loading(config):
        if is_saved_to_disk(config.path):
            loaded = datasets.load_from_disk(config.path)
            return loaded[config.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(config.path, config.subset, split=config.split, revision=config.revision)


_load = load_rows
