"""Image folders: every image file below a folder, in the order of their paths."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from common import dist
from common.data.config import SourceConfig
from common.data.folder_captions import folder_captions
from common.data.images import EXTENSIONS
from common.data.sources import Account, IndexedSource, Part, RawImage
from common.data.strings import StringTable
from common.errors import UserError, refusing

log = logging.getLogger(__name__)

UNREAD = frozenset(
    f".{suffix}"
    for suffix in "hif jxl svg psd xcf eps ico tga exr hdr dng raw cr2 cr3 nef arw orf rw2 raf".split()  # noqa: SIM905
)
"""Endings of pictures that are not read here, which a user would miss."""
OTHER_FILES = "other files"
PART = 8192  # pictures of a part, on average ...
LONGEST_PART = 4 * PART  # ... and at most


class FolderSource(IndexedSource):
    """Keys are paths relative to the folder, with forward slashes."""

    def __init__(self, config: SourceConfig) -> None:
        self.name = config.path
        self._root = Path(config.path)
        found = _listed(self._root)
        self._files = StringTable(found.images)
        self._captions = None
        if not config.unconditional:
            self._captions = folder_captions(self._root, config, found.images, found.others)
        used = self._captions.used if self._captions else ()
        self._left_out = _left_out([name for name in found.others if name not in used])
        for what, count in self._left_out.items():
            if what != OTHER_FILES and dist.is_main():
                _warn(f"{self.name}: left out: {count:,} {what}")

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> RawImage:
        key = self._files[index]
        return RawImage(key, str(self._root / key), self._captions[index] if self._captions else None)

    def account(self) -> Account:
        if self._captions is None:
            return Account(len(self), 0, self._left_out)
        count, lost = self._captions.account()
        return Account(len(self), count, {**self._left_out, **lost})

    def parts(self) -> list[Part]:
        """Runs of pictures in the order of their paths; a part begins with a picture whose name's hash says so, so that
        a picture which comes or goes changes the part that it is in and no other one."""
        parts, start = [], 0
        for end in self._ends_of_parts():
            keys = [self._files[index] for index in range(start, end)]
            parts.append(Part(keys[0] if start else "", self._fingerprint(keys), start, end - start))
            start = end
        return parts

    def captions_version(self, start: int, count: int) -> str:
        if self._captions is None:
            return ""
        digest = hashlib.blake2b(digest_size=16)
        for index in range(start, start + count):
            digest.update((self._captions[index] or "").encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()

    def _ends_of_parts(self) -> Iterator[int]:
        start = 0
        for index in range(1, len(self)):
            if index - start == LONGEST_PART or _hash(self._files[index]) % PART == 0:
                yield index
                start = index
        yield len(self)

    def _fingerprint(self, keys: list[str]) -> str:
        """Of names, sizes and times; not of captions."""
        digest = hashlib.blake2b(digest_size=16)
        for key in keys:
            with refusing(f"{self._root / key}: cannot be read", OSError):
                status = os.stat(self._root / key)  # noqa: PTH116  # twice as fast, of millions
            digest.update(os.fsencode(f"{key}\0{status.st_size}\0{status.st_mtime_ns}\0"))
        return digest.hexdigest()


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    """Once a process, however often a folder is opened."""
    log.warning(text)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "big")


@dataclass
class _Listing:
    """Relative paths below a folder: of its images, sorted, and of all else."""

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def _listed(root: Path) -> _Listing:
    """What lies below `root`; hidden files and folders are left out.

    Raises:
        UserError: no such folder, an empty one, none but other files in it, or a folder below that cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: " + ("not a folder" if root.exists() else "no such folder"))
    found = _Listing()
    with refusing(f"{root}: cannot be searched", OSError):
        for relative in _files_below(root):
            is_image = PurePosixPath(relative).suffix.lower() in EXTENSIONS
            (found.images if is_image else found.others).append(relative)
    if not found.images:
        there = ", ".join(f"{count} {what}" for what, count in _left_out(found.others).items()) or "nothing"
        expected = " ".join(sorted(EXTENSIONS))
        raise UserError(f"{root}: no images in this folder, found {there}; expected files of {expected}")
    found.images.sort()
    return found


def _files_below(root: Path) -> Iterator[str]:
    visited = set()

    def unreadable(error: OSError) -> None:
        raise error  # `os.walk` would pass over it

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = PurePosixPath(folder).relative_to(PurePosixPath(root))
        yield from (str(below / name) for name in files if not name.startswith("."))


def _left_out(others: list[str]) -> dict[str, int]:
    """Files that are neither images nor captions, by what they are."""
    endings = Counter(PurePosixPath(name).suffix.lower() for name in others)
    unread = {
        f"{ending} files, a kind of picture that is not read": endings[ending] for ending in sorted(UNREAD)
    }
    rest = len(others) - sum(unread.values())
    return {what: count for what, count in {**unread, OTHER_FILES: rest}.items() if count}
