"""Hugging Face datasets: the two columns that are read, and the images in them.

Images stay encoded (`Image(decode=False)`), so that damaged ones are ours to count.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.data.config import SourceConfig
from common.errors import UserError, refusing

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

AnyDataset = TypeVar("AnyDataset", "Dataset", "IterableDataset")


def is_saved_to_disk(path: str) -> bool:
    """Whether `path` was written by `save_to_disk`."""
    return any(Path(path, name).is_file() for name in ("state.json", "dataset_dict.json"))


def loading(config: SourceConfig) -> AbstractContextManager[None]:
    """Inside, whatever `datasets` raises for a wrong id, subset, split or file (of many classes) becomes one line."""
    what = f"subset {config.subset!r}, split {config.split!r}" if config.subset else f"split {config.split!r}"
    return refusing(f"{config.path}: cannot load this dataset ({what})")


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
