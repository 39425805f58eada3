"""Hugging Face datasets, from the hub or a local folder, read at random; `hub_stream` streams them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from common.data.captions import caption_of
from common.data.config import SourceConfig
from common.data.hub_rows import (
    caption_in,
    check_images,
    image_data,
    is_saved_to_disk,
    loading,
    select_columns,
)
from common.data.sources import Account, IndexedSource, Part, RawImage
from common.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

PART = 8192  # rows; a data set changes as a whole, but nobody wants it in one piece
BATCH = 4096  # captions that are counted at a time


class HubSource(IndexedSource):
    """A downloaded or local dataset. Keys are row numbers."""

    def __init__(self, config: SourceConfig) -> None:
        self.name, self._config = config.path, config
        loaded = _load(config)
        self._fingerprint = str(loaded._fingerprint)  # before columns are chosen, which are no other data
        self._rows, self._caption = select_columns(loaded, config)
        if not len(self._rows):
            raise UserError(f"{config.path}: split {config.split!r} has no rows")
        check_images(self._rows[0][config.image_column], config)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> RawImage:
        row = self._rows[index]
        caption = caption_in(row[self._caption], self.name) if self._caption else None
        return RawImage(str(index), image_data(row[self._config.image_column], self._config), caption)

    def account(self) -> Account:
        if self._caption is None:
            return Account(len(self), 0)
        count, lost = 0, Counter[str]()
        for batch in self._rows.select_columns([self._caption]).iter(batch_size=BATCH):
            for value in batch[self._caption]:
                caption, reason = caption_of(value)
                count += caption is not None
                if reason:
                    lost[reason] += 1
        return Account(len(self), count, dict(lost))

    def parts(self) -> list[Part]:
        """Slices of equal length. Any change of the data set is a change of all of them."""
        starts = range(0, len(self), PART)
        return [
            Part(f"rows {start}", self._fingerprint, start, min(PART, len(self) - start)) for start in starts
        ]


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
