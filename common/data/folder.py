"""Image folders: every image file below a folder, in the order of their paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

from common.data.config import SourceConfig
from common.data.images import EXTENSIONS
from common.data.sources import IndexedSource, RawImage
from common.data.strings import StringTable
from common.errors import UserError, refusing

CAPTION_FILE = "captions.jsonl"
_FILE_FIELDS = ("file_name", "file", "image")  # `file_name` is Hugging Face's, `image` LLaVA's


class FolderSource(IndexedSource):
    """Keys are paths relative to the folder, with forward slashes."""

    def __init__(self, config: SourceConfig) -> None:
        self.name = config.path
        self._root = Path(config.path)
        files = _image_files(self._root)
        self._files = StringTable(files)
        self._captions = _captions(self._root, config.captions, files)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> RawImage:
        key = self._files[index]
        caption = self._captions[index] if self._captions is not None else None
        return RawImage(key, str(self._root / key), caption or None)


def _image_files(root: Path) -> list[str]:
    """Sorted relative paths of all images below `root`; hidden files and folders are left out.

    Raises:
        UserError: no such folder, an empty one, or none but other files in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: " + ("not a folder" if root.exists() else "no such folder"))
    images, others = [], 0
    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in EXTENSIONS:
                images.append(Path(folder, name).relative_to(root).as_posix())
            else:
                others += 1
    if not images:
        found = f"{others} other files" if others else "nothing"
        expected = " ".join(sorted(EXTENSIONS))
        raise UserError(f"{root}: no images in this folder, found {found}; expected files of {expected}")
    return sorted(images)


def _captions(root: Path, given: str | None, files: list[str]) -> StringTable | None:
    """One caption per file ("" where none is given), or None without a caption file.

    File names in the caption file are relative to the folder it lies in.
    """
    if given is not None:
        path = Path(given)
    else:
        candidates = (root / CAPTION_FILE, root.absolute().parent / CAPTION_FILE)
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            return None
        path = found
    table: dict[str, str] = {}
    with (
        refusing(f"{path}: cannot read captions", OSError, UnicodeDecodeError),
        path.open(encoding="utf-8") as lines,
    ):
        for number, line in enumerate(lines, start=1):
            if line.strip():
                file, caption = _caption_line(line, f"{path}: line {number}")
                table[_full(path.parent, file)] = caption
    return StringTable(table.get(_full(root, file), "") for file in files)


def _full(folder: Path, file: str) -> str:
    """An absolute path without `..`, links not resolved."""
    return os.path.normpath(folder.absolute() / file)


def _caption_line(line: str, where: str) -> tuple[str, str]:
    with refusing(f"{where}: no valid JSON", json.JSONDecodeError):
        record = json.loads(line)
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, found {type(record).__name__}")
    file = next((record[field] for field in _FILE_FIELDS if field in record), None)
    if not isinstance(file, str) or not isinstance(record.get("caption"), str):
        raise UserError(f"{where}: expected the strings `file_name` and `caption`, found {sorted(record)}")
    return file, record["caption"]
