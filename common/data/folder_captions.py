"""The captions of a folder of pictures, from where others leave them.

    captions.jsonl                      in the folder or beside it: a line a picture, `file_name` and `caption`
    metadata.jsonl, .csv, .parquet      Hugging Face's ImageFolder: `file_name` and `text`, in any folder below
    0001.txt, .caption, .cap            beside 0001.jpg: img2dataset's `files`, kohya's

What is notable here: one of these places counts, and the recipe must name it where there are several. File names that
were made elsewhere (absolute paths, another folder in front) are matched behind the one folder that they have in
common, and only if no name is right as it stands: a caption of another picture is worse than none.
"""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from common.data.caption_file import read_records
from common.data.captions import (
    ENDINGS,
    FIELDS,
    NO_FILE,
    NO_JSON,
    caption_of,
    caption_of_bytes,
    field_of_captions,
)
from common.data.config import SourceConfig
from common.data.strings import StringTable
from common.errors import UserError
from common.text import parse_json, shown

CAPTION_FILE = "captions.jsonl"
CAPTION_FILES = (CAPTION_FILE, "metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_FIELDS = (
    "file_name",
    "filename",
    "file",
    "image",
    "path",
)  # `file_name` is Hugging Face's, `image` LLaVA's
LOOKED_AT = 10_000  # texts beside pictures that an account reads, at even distances


class FolderCaptions(ABC):
    """The caption of each picture of a folder, by its index.

    `used`: relative paths of the files that it comes from, as far as they lie in the folder.
    """

    used: frozenset[str] = frozenset()

    @abstractmethod
    def __getitem__(self, index: int) -> str | None: ...

    @abstractmethod
    def account(self) -> tuple[int, dict[str, int]]:
        """How many pictures have one, and what was left out: why -> how many."""


def folder_captions(
    root: Path, config: SourceConfig, images: Sequence[str], others: Sequence[str]
) -> FolderCaptions | None:
    """The captions of the one place that has some, or that the recipe names; None without any.

    Args:
        config: `captions` names a file, or the ending of texts beside the pictures; `caption_column` a field.
        images: relative paths, in the order of their indices. others: those of all other files below `root`.

    Raises:
        UserError: there are several places, or none of what is named; a file is damaged, or names no picture.
    """
    given, column = config.captions, config.caption_column
    if given is not None and not is_ending(given):
        file = _InFiles([Path(given)], root, images, column)
        return file.chosen(column, must=True)
    if given is not None:
        beside = _Beside(root, images, others, given.lower(), column)
        if not beside.used:
            raise UserError(f"{root}: captions: no {given} file stands beside a picture")
        return beside
    places: dict[str, FolderCaptions] = {}
    for files in _caption_files(root, others):
        file = _InFiles(files, root, images, column)
        if found := file.chosen(column, must=False):
            places[str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")] = found
    for ending in ENDINGS if column is None else ():
        beside = _Beside(root, images, others, f".{ending}", None)
        if beside.used:
            places[f".{ending}"] = beside
    if len(places) > 1:
        raise UserError(
            f"{root}: captions stand in several places, {', '.join(places)}: `captions` must name one of them"
        )
    if column is not None and not places:
        raise UserError(f"{root}: caption_column: no caption file here has {column!r}")
    return next(iter(places.values()), None)


def is_ending(given: str) -> bool:
    """Whether a recipe's `captions` names texts beside pictures, as `.txt`, and no file."""
    return given.startswith(".") and "/" not in given and given != "." * len(given)


def _caption_files(root: Path, others: Sequence[str]) -> list[list[Path]]:
    """The files of each name; one beside the folder stands for itself."""
    named = defaultdict(list)
    for relative in sorted(others):
        named[PurePosixPath(relative).name].append(root / relative)
    above = root.absolute().parent / CAPTION_FILE
    return [named[name] for name in CAPTION_FILES if name in named] + ([[above]] if above.is_file() else [])


class _InFiles(FolderCaptions):
    """Captions in one file, or in those of one name in several folders. File names are relative to where it lies."""

    def __init__(self, files: Sequence[Path], root: Path, images: Sequence[str], column: str | None) -> None:
        self._files, self._root, self._images = files, root, images
        self.used = frozenset(
            file.relative_to(root).as_posix() for file in files if file.is_relative_to(root)
        )
        self._fields = FIELDS if column is None else (column,)
        self._present: dict[str, None] = {}  # fields, in their order
        self._right: list[tuple[int, tuple[Any, ...]]] = []  # index of the picture, and what the fields hold
        self._strange: list[tuple[str, tuple[Any, ...]]] = []  # a name that is no picture's
        self._left_out: Counter[str] = Counter()
        at = {_full(str(root.absolute()), image): index for index, image in enumerate(images)}
        for file in files:
            folder = str(file.absolute().parent)
            for where, record in read_records(file):
                name = next((record[field] for field in FILE_FIELDS if field in record), None)
                if not isinstance(name, str):
                    raise UserError(
                        f"{where}: expected the string `file_name`, found {sorted(map(str, record))}"
                    )
                self._present |= dict.fromkeys(map(str, record))
                values = tuple(record.get(field) for field in self._fields)
                index = at.get(_full(folder, name), at.get(_full(folder, name.replace("\\", "/"))))
                if index is None:
                    self._strange.append((name, values))
                else:
                    self._right.append((index, values))

    def chosen(self, column: str | None, must: bool) -> FolderCaptions | None:
        """Itself, with the field that holds the captions; None if there is none, which is an error if it `must`.

        Raises:
            UserError: several fields may, or no line names a picture here.
        """
        where = self._files[0]
        if column is not None and column not in self._present and not must:
            return None
        field = field_of_captions(self._present, column, where)
        if field is None:
            if must or where.name == CAPTION_FILE:
                found = ", ".join(self._present) or "nothing"
                raise UserError(
                    f"{where}: expected captions in {', '.join(FIELDS)}, or where caption_column says; found {found}"
                )
            return None
        self._settle(self._fields.index(field))
        return self

    def _settle(self, place: int) -> None:
        texts = [""] * len(self._images)
        right = self._right or self._moved()
        self._count("lines that name no picture here", len(self._right) + len(self._strange) - len(right))
        told = set()
        for index, values in right:
            caption, reason = caption_of(values[place])
            if index in told:
                self._count("further captions of a picture", 1)
                continue
            told.add(index)
            self._count(reason or "lines without a caption", caption is None)
            texts[index] = caption or ""
        self._texts = StringTable(texts)
        self._right, self._strange = [], []

    def _moved(self) -> list[tuple[int, tuple[Any, ...]]]:
        """The lines whose names are right behind a folder that is not here, the same for all of them."""
        where, lines = self._files[0], len(self._strange)
        at = {_composed(image): index for index, image in enumerate(self._images)}
        behind: dict[str, list[tuple[int, tuple[Any, ...]]]] = defaultdict(list)
        for name, values in self._strange:
            parts = PurePosixPath(_composed(name.replace("\\", "/"))).parts
            for start in range(len(parts)):
                if (index := at.get("/".join(parts[start:]))) is not None:
                    behind["/".join(parts[:start])].append((index, values))
                    break
        if not behind:
            first = f"; the first: {shown(self._strange[0][0])}" if lines else ""
            raise UserError(f"{where}: none of its {lines} lines names a picture in {self._root}{first}")
        alike = [folder for folder in behind if PurePosixPath(folder).name == self._root.absolute().name]
        chosen = list(behind) if len(behind) == 1 else alike
        if len(chosen) != 1:
            raise UserError(
                f"{where}: its lines name pictures in several folders that are not here, such as "
                f"{' and '.join(sorted(behind)[:2])}: write names that start from where it lies"
            )
        return behind[chosen[0]]

    def _count(self, reason: str, number: int) -> None:
        if number:
            self._left_out[f"{reason} ({self._files[0].name})"] += number

    def __getitem__(self, index: int) -> str | None:
        return self._texts[index] or None

    def account(self) -> tuple[int, dict[str, int]]:
        return int((self._texts.ends[1:] > self._texts.ends[:-1]).sum()), dict(self._left_out)


class _Beside(FolderCaptions):
    """Captions in texts beside the pictures, read when they are asked for; in .json, a field of the object."""

    def __init__(
        self, root: Path, images: Sequence[str], others: Sequence[str], ending: str, column: str | None
    ) -> None:
        self._root, self._column = root, column
        there = {
            name[: -len(ending)]: name
            for name in others
            if name.lower().endswith(ending) and len(name) > len(ending)
        }
        texts = [there.get(str(PurePosixPath(image).with_suffix("")), "") for image in images]
        self.used = frozenset(filter(None, texts))
        self._texts = StringTable(texts)

    def __getitem__(self, index: int) -> str | None:
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[str | None, str | None]:
        """As `caption_of`."""
        name = self._texts[index]
        if not name:
            return None, None
        path = self._root / name
        try:
            content = path.read_bytes()
        except OSError:
            return None, NO_FILE
        if path.suffix.lower() != ".json":
            return caption_of_bytes(content)
        try:
            record = parse_json(content, path, nan=True)
        except UserError:
            return None, NO_JSON
        if not isinstance(record, dict):
            return None, NO_JSON
        field = field_of_captions(record, self._column if self._column in record else None, path)
        return caption_of(record.get(field)) if field else (None, None)

    def account(self) -> tuple[int, dict[str, int]]:
        there = [
            index
            for index in range(len(self._texts))
            if self._texts.ends[index + 1] > self._texts.ends[index]
        ]
        looked = [there[place * len(there) // LOOKED_AT] for place in range(LOOKED_AT)]
        part = f" (of {LOOKED_AT:,} that were looked at)"
        if len(there) <= LOOKED_AT:
            looked, part = there, ""
        found = [self._read(index) for index in looked]
        lost = Counter(reason or "texts without a caption" for caption, reason in found if caption is None)
        return len(there) - sum(lost.values()), {f"{reason}{part}": count for reason, count in lost.items()}


def _full(folder: str, name: str) -> str:
    """An absolute path without `..`, links not resolved, its letters composed."""
    return _composed(os.path.normpath(os.path.join(folder, name)))  # noqa: PTH118  # many times faster than `Path`


def _composed(name: str) -> str:
    """macOS writes an umlaut as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)
