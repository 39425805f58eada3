"""Hugging Face datasets, from the hub or a local folder: read at random, or streamed.

Images stay encoded (`Image(decode=False)`), so that damaged ones are ours to count.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from common.data.config import SourceConfig
from common.data.sources import IndexedSource, RawImage, Source
from common.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

AnyDataset = TypeVar("AnyDataset", "Dataset", "IterableDataset")


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


def open_hub(config: SourceConfig, lanes: int) -> Source:
    if not config.streaming:
        return HubSource(config)
    from common.data.hub_stream import HubStream

    return HubStream(config, lanes)


def is_saved_to_disk(path: str) -> bool:
    """Whether `path` was written by `save_to_disk`."""
    return any(Path(path, name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load(config: SourceConfig) -> Dataset:
    import datasets

    try:
        if is_saved_to_disk(config.path):
            loaded = datasets.load_from_disk(config.path)
            return loaded[config.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(config.path, config.subset, split=config.split, revision=config.revision)
    except Exception as error:
        refuse(config, error)


def refuse(config: SourceConfig, error: Exception) -> NoReturn:
    """What `datasets` raises for a wrong id, subset, split or file is of many classes."""
    what = f"subset {config.subset!r}, split {config.split!r}" if config.subset else f"split {config.split!r}"
    raise UserError(f"{config.path}: cannot load this dataset ({what}): {one_line(error)[:400]}") from error


def select_columns(rows: AnyDataset, config: SourceConfig) -> AnyDataset:
    """The image column, undecoded, and the caption column if one is named."""
    import datasets

    columns = [config.image_column] + ([config.caption_column] if config.caption_column else [])
    present = rows.column_names or []
    for column in columns:
        if column not in present:
            raise UserError(f"{config.path}: no column {column!r} in this dataset: {', '.join(present)}")
    rows = rows.select_columns(columns)
    if rows.features is not None and isinstance(rows.features[config.image_column], datasets.Image):
        rows = rows.cast_column(config.image_column, datasets.Image(decode=False))
    return rows


def image_data(value: Any, name: str) -> bytes | str:
    """The encoded bytes, or the local path, of one cell of an image column.

    Raises:
        UserError: the column holds something else than images.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None:
        return b""  # no image in this row: counted as a corrupt one
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise UserError(f"{name}: expected encoded images in the image column, found {type(value).__name__}")
    if "://" not in value:
        return value
    import fsspec

    try:
        with fsspec.open(value, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
