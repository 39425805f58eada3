"""Hugging Face datasets, from the hub or a local folder, read at random; `hub_stream` streams them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from common.data.captions import NO_UTF8, caption_of
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
        loaded = load_rows(config)
        self._fingerprint = str(loaded._fingerprint)  # before columns are chosen, which are no other data
        self._rows, self._caption = select_columns(loaded, config)
        if not len(self._rows):
            raise UserError(f"{config.path}: split {config.split!r} has no rows")
        self._images = self._rows.select_columns([config.image_column])
        check_images(self._images[0][config.image_column], config)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> RawImage:
        try:
            row = self._rows[index]
        except UnicodeDecodeError:  # a caption; the picture is sound
            row = self._images[index]
        caption = caption_in(row.get(self._caption), self.name) if self._caption else None
        return RawImage(str(index), image_data(row[self._config.image_column], self._config), caption)

    def account(self) -> Account:
        if self._caption is None:
            return Account(len(self), 0)
        count, lost = 0, Counter[str]()
        cells = self._rows.select_columns([self._caption])
        for start in range(0, len(self), BATCH):
            for caption, reason in _captions(
                cells, self._caption, range(start, min(start + BATCH, len(self)))
            ):
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


def _captions(cells: Dataset, column: str, rows: range) -> list[tuple[str | None, str | None]]:
    """Of each row, as `caption_of`; a cell that is no text in UTF-8 is found by looking at each alone."""
    try:
        return [caption_of(value) for value in cells[rows.start : rows.stop][column]]
    except UnicodeDecodeError:
        if len(rows) == 1:
            return [(None, NO_UTF8)]
        return [found for row in rows for found in _captions(cells, column, range(row, row + 1))]


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
