"""Hugging Face datasets: the two columns that are read, what they must hold, and the images in them.

Images stay encoded (`Image(decode=False)`), so that damaged ones are ours to count. What a column holds is known from
the data set's features, before anything is read; streams may have none, and tell at their first row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.data.blobs import is_url, read_whole
from common.data.captions import NO_TEXT, caption_of, field_of_captions
from common.data.config import SourceConfig
from common.data.images import CorruptImage
from common.data.inline import inline_picture
from common.errors import UserError, refusing
from common.text import shown

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

AnyDataset = TypeVar("AnyDataset", "Dataset", "IterableDataset")
TEXTS = ("string", "large_string", "string_view")
BYTES = ("binary", "large_binary", "binary_view")


def is_saved_to_disk(path: str) -> bool:
    """Whether `path` was written by `save_to_disk`."""
    return any(Path(path, name).is_file() for name in ("state.json", "dataset_dict.json"))


def loading(config: SourceConfig) -> AbstractContextManager[None]:
    """Inside, whatever `datasets` raises for a wrong id, subset, split or file (of many classes) becomes one line."""
    what = f"subset {config.subset!r}, split {config.split!r}" if config.subset else f"split {config.split!r}"
    return refusing(f"{config.path}: cannot load this dataset ({what})")


def select_columns(rows: AnyDataset, config: SourceConfig) -> tuple[AnyDataset, str | None]:
    """The image column, undecoded, and beside it the column with captions, whose name is returned; None without one.

    Raises:
        UserError: as `chosen_columns`.
    """
    import datasets

    captions: str | None = chosen_columns(rows.column_names or [], rows.features, config, config.path)
    features = rows.features
    rows = rows.select_columns(list(dict.fromkeys([config.image_column, *([captions] if captions else [])])))
    if features is not None and isinstance(features[config.image_column], datasets.Image):
        rows = rows.cast_column(config.image_column, datasets.Image(decode=False))
    return rows, captions


def chosen_columns(present: Sequence[str], features: Any, config: SourceConfig, where: str) -> str | None:
    """The column with captions beside the image column; None where there is none.

    It is `caption_column`, or the one column of text that has one of the usual names.

    Args:
        present: names of all columns. features: column -> what it holds, as `datasets` says it; None if unknown.
        where: for errors.

    Raises:
        UserError: a column is not there or holds something else than pictures or captions.
    """
    for column in (config.image_column, config.caption_column):
        if column is not None and column not in present:
            raise UserError(f"{where}: no column {column!r} in this dataset: {', '.join(present)}")
    captions = config.caption_column
    if captions is None and not config.unconditional:
        texts = [name for name in present if features is None or _holds_text(features[name])]
        captions = field_of_captions(texts, None, where)
    if features is not None:
        if captions is not None and not _holds_text(features[captions]):
            raise UserError(
                f"{where}: caption_column: {captions!r} holds {_kind(features[captions])}, expected text"
            )
        if not _holds_pictures(features[config.image_column]):
            raise UserError(
                f"{where}: image_column: {config.image_column!r} holds {_kind(features[config.image_column])}, "
                "expected one picture a row"
            )
    return captions


def _holds_text(feature: Any) -> bool:
    """Whether it is text, or a list of texts, of which the first counts."""
    if type(feature).__name__ in ("List", "LargeList"):
        feature = feature.feature
    return getattr(feature, "dtype", None) in TEXTS and type(feature).__name__ == "Value"


def _holds_pictures(feature: Any) -> bool:
    """Whether it may be one: an image, bytes, a path, or Hugging Face's pair of the two."""
    if isinstance(feature, dict):
        return bool(feature.keys() & {"bytes", "path"})
    kind = type(feature).__name__
    return kind == "Image" or (kind == "Value" and feature.dtype in (*TEXTS, *BYTES))


def _kind(feature: Any) -> str:
    """What a feature is, in words that a user finds in the data set's viewer."""
    if isinstance(feature, dict):
        return f"objects of {', '.join(feature)}"
    kind = type(feature).__name__
    if kind in ("List", "LargeList"):
        return f"lists of {_kind(feature.feature)}"
    return str(feature.dtype) if kind == "Value" else kind


def caption_in(value: Any, name: str) -> str | None:
    """The caption in one cell.

    Raises:
        UserError: it is no text, in a stream that does not say beforehand what its columns hold.
    """
    caption, reason = caption_of(value)
    if reason == NO_TEXT:
        raise UserError(f"{name}: caption_column: expected text, found {type(value).__name__}")
    return caption


def image_data(value: Any, config: SourceConfig, folder: str | None = None) -> bytes | str | CorruptImage:
    """The encoded bytes, or the local path, of one cell of an image column; or why there are none, which is counted.

    A path that is relative starts from `folder` (the table's, which may be a URL) or from the data set's. Pictures in
    base64 are read too.

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
        raise UserError(
            f"{config.path}: expected encoded images in the image column, found {type(value).__name__}"
        )
    with_picture = inline_picture(value)
    if with_picture is not None:
        return with_picture
    if is_url(value):
        return _fetched(value)
    if folder is not None and is_url(folder):
        return _fetched(f"{folder}/{value}")
    for place in (folder, config.path):
        if place is not None and "\0" not in value and Path(place, value).is_file():
            return str(Path(place, value))
    return value


def check_images(value: Any, config: SourceConfig, folder: str | None = None) -> None:
    """Raises:
    UserError: a cell of text, which is neither a picture nor says where one is.
    """
    afar = not isinstance(value, str) or is_url(value) or (folder is not None and is_url(folder))
    data = b"" if afar else image_data(value, config, folder)
    if isinstance(data, str) and ("\0" in data or not Path(data).exists()):
        raise UserError(
            f"{config.path}: image_column: {config.image_column!r} holds text that is no picture's path, such as "
            f"{shown(data)}"
        )


def _fetched(url: str) -> bytes | CorruptImage:
    try:
        return read_whole(url)
    except UserError as error:  # a dead link among millions is no reason to stop
        return CorruptImage(str(error))
