"""Which files hold the codes of a source: by what its parts are, not by where it stands in a recipe.

What is notable here: a file is named by a hash of what it was made from (kind, part, size and time as the part's
fingerprint tells, a first and a last picture), so adding, removing and reordering touches nothing else, and moving the
pictures encodes nothing. The record of a source, named by what the recipe says of it, is written once all of its
files are there; training reads nothing else, and needs no pictures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.accounts import account_line
from common.data.blobs import FailedRead
from common.data.config import SourceConfig
from common.data.images import CorruptImage
from common.data.sources import Account, IndexedSource, RawImage
from common.errors import UserError, refusing
from common.files import write_json
from generation.codes.facts import FORMAT
from generation.codes.shard import captions_path, shard_path

# What a recipe says of a source that decides which samples it has. How often it is drawn from, and in which order, is
# training's affair.
DECIDING = (
    *("kind", "path", "subset", "split", "revision"),
    *("image_column", "caption_column", "captions", "unconditional"),
)


@dataclass(frozen=True)
class CodeFiles:
    """One entry of a record: a slice of a part, and what was made of it.

    Args:
        name, fingerprint: of the part. first, count: its pictures from the first of the part on.
        shard, captions: names of files. sizes: their bytes.
        samples: pictures with codes; captioned: of them, those with a caption; skipped: pictures left out.
    """

    name: str
    fingerprint: str
    first: int
    count: int
    shard: str
    captions: str
    sizes: tuple[int, int]
    samples: int
    captioned: int
    skipped: int

    @property
    def slice(self) -> tuple[str, str, int, int]:
        return self.name, self.fingerprint, self.first, self.count


@dataclass(frozen=True)
class SourceRecord:
    """A source as it was last extracted."""

    source: dict[str, Any]
    files: tuple[CodeFiles, ...]

    def total(self, field: str) -> int:
        return sum(getattr(entry, field) for entry in self.files)


def described(stated: SourceConfig) -> dict[str, Any]:
    """What of a source names its record: what differs from the defaults."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(SourceConfig):
        value = getattr(stated, field.name)
        if field.name in DECIDING and (field.name in ("kind", "path") or value != field.default):
            found[field.name] = value
    if "://" not in stated.path:
        found["path"] = os.path.normpath(stated.path)
    return found


def record_path(root: Path, source: dict[str, Any]) -> Path:
    """`sources/cats.1f0e...json`: the path's last name is for the eye alone."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", source["path"].rstrip("/").rpartition("/")[2])[-40:]
    return root / "sources" / f"{plain}.{digest('source', source)}.json"


def write_record(root: Path, record: SourceRecord) -> None:
    """Raises `UserError` if it cannot be written."""
    fields = {
        "format": FORMAT,
        "source": record.source,
        "files": [dataclasses.asdict(f) for f in record.files],
    }
    write_json(record_path(root, record.source), fields)


def find_record(root: Path, source: dict[str, Any]) -> SourceRecord | None:
    """None where none has been written.

    Raises:
        UserError: it is damaged.
    """
    path = record_path(root, source)
    return read_record(path) if path.is_file() else None


def read_record(path: Path) -> SourceRecord:
    """Raises `UserError` if it is something else, or damaged."""
    with refusing(f"{path}: no record of extracted codes, or a damaged one"):
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format: expected {FORMAT}")
        files = (CodeFiles(**{**entry, "sizes": tuple(entry["sizes"])}) for entry in fields["files"])
        return SourceRecord(fields["source"], tuple(files))


def records(root: Path) -> dict[Path, SourceRecord]:
    """All of them, sorted by their files' names."""
    return {path: read_record(path) for path in sorted((root / "sources").glob("[!.]*.json"))}


def unused_files(root: Path) -> list[Path]:
    """Shards and captions that no record names: of pictures that were changed, or are of an extraction under way."""
    used = {
        path
        for record in records(root).values()
        for entry in record.files
        for path in (shard_path(root, entry.shard), captions_path(root, entry.captions))
    }
    found = (path for folder in ("shards", "captions") for path in sorted((root / folder).glob("[!.]*")))
    return [path for path in found if path not in used]


def name_of_source(source: dict[str, Any]) -> str:
    """A source for the eye: its path, and what else is said of it."""
    said = ((key, value) for key, value in source.items() if key not in ("kind", "path"))
    more = ", ".join(key if value is True else f"{key} {value}" for key, value in said)
    return f"{source['path']} ({more})" if more else str(source["path"])


def digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Slice:
    """A part of a source, or a piece of one that is too long for one file: pictures `start` ... `start + count - 1` of
    the source, the first of them number `first` of the part."""

    name: str
    fingerprint: str
    first: int
    start: int
    count: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        """As `CodeFiles.slice`: it stays the same while other parts come and go."""
        return self.name, self.fingerprint, self.first, self.count

    def shard(self, kind: str, image_column: str, probe: str) -> str:
        """The name of its codes."""
        return digest(kind, image_column, self.name, self.fingerprint, self.first, self.count, probe)

    def captions(self, shard: str, stated: SourceConfig, source: IndexedSource) -> str:
        """The name of its captions: another one as soon as one of them may be another."""
        version = source.captions_version(self.start, self.count)
        return digest(shard, self.fingerprint, stated.caption_column, stated.unconditional, version)


def slices(source: IndexedSource, longest: int) -> Iterator[Slice]:
    """All pictures of a source, in order. Parts without any are left out."""
    for part in source.parts():
        for first in range(0, part.count, longest):
            count = min(longest, part.count - first)
            yield Slice(part.name, part.fingerprint, first, part.start + first, count)


def probe(source: IndexedSource, piece: Slice) -> str:
    """A hash of a slice's first and last picture: tars of one name, size and second differ here."""
    return digest(*(_picture(source, at) for at in {piece.start, piece.start + piece.count - 1}))


def _picture(source: IndexedSource, index: int) -> tuple[str, bytes]:
    try:
        raw: RawImage = source.read(index)
        content = Path(raw.data).read_bytes() if isinstance(raw.data, str) else raw.data
    except (FailedRead, OSError):  # it will be left out
        return "", b""
    return raw.key, b"" if isinstance(content, CorruptImage) else hashlib.blake2b(content).digest()


def told(record: SourceRecord, first_skipped: str = "", left_out: Mapping[str, int] | None = None) -> str:
    """`cats: 12 pictures, 11 with a caption; left out: 1 unreadable; shards: 3`, and an example of those left out."""
    samples, captioned, skipped = (record.total(name) for name in ("samples", "captioned", "skipped"))
    lost = {**(left_out or {}), "unreadable": skipped}
    captions = not record.source.get("unconditional", False)
    line = account_line(name_of_source(record.source), Account(samples, captioned, lost), captions)
    return f"{line}; shards: {len(record.files):,}" + (f"; e.g. {first_skipped}" if first_skipped else "")


def refuse_absent(root: Path, stated: Iterable[SourceConfig]) -> None:
    """Raises:
    UserError: a source has no record; names the first.
    """
    for source in map(described, stated):
        if not record_path(root, source).is_file():
            there = ", ".join(name_of_source(record.source) for record in records(root).values())
            raise UserError(
                f"{root}: no codes of {name_of_source(source)}, which data.sources names, only of: "
                f"{there or 'nothing'}; run generation/extract_codes.py with this recipe"
            )
