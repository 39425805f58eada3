"""Where images come from. A source says which encoded image stands at a position of its order.

A variant is a sibling file with the same contract (`folder`, `shards`, `hub`), chosen by `open_source`. To
add one: subclass `IndexedSource` if any sample can be read by index, else `Source`; give it a `kind` in
`SourceConfig`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.config import SourceConfig
from common.data.order import derive_key, permuted
from common.errors import UserError, one_line

__all__ = ["IndexedSource", "RawImage", "Source", "SourceConfig", "open_source"]


@dataclass(frozen=True)
class RawImage:
    """An image before decoding: a key unique in its source, encoded bytes or a local path, a caption."""

    key: str
    data: bytes | str
    caption: str | None = None


class Source(ABC):
    """An endless sequence of samples, epoch after epoch, shuffled by a seed."""

    name: str  # as the user wrote it: stands in messages

    @abstractmethod
    def sample(self, position: int, seed: int, attempt: int = 0) -> RawImage:
        """The sample at a position of this source's own order: a pure function of its arguments.

        `attempt` > 0 asks for a substitute, because the image at that position cannot be decoded.
        """


class IndexedSource(Source):
    """A source of known length whose samples can be read in any order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> RawImage:
        """The sample at `index` of the unshuffled set."""

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        """The index of the sample that comes at `offset` of an epoch."""
        return permuted(offset, len(self), derive_key(seed, "epoch", epoch))

    def sample(self, position: int, seed: int, attempt: int = 0) -> RawImage:
        if attempt:
            return self.read(derive_key(seed, "substitute", position, attempt) % len(self))
        epoch, offset = divmod(position, len(self))
        return self.read(self.shuffled(epoch, offset, seed))


def open_source(config: SourceConfig, lanes: int = 1) -> Source:
    """Open a source. `lanes` matters to streamed datasets only, which read so many parts side by side.

    Raises:
        UserError: nothing there, nothing to read in it, or damaged; names the path.
    """
    if config.kind == "folder":
        from common.data.folder import FolderSource

        return FolderSource(config)
    if config.kind == "shards":
        from common.data.shards import ShardSource

        return ShardSource(config)
    from common.data.hub import open_hub

    return open_hub(config, lanes)


class StringTable:
    """Many strings in two arrays.

    A list of a million `str` would be copied, page by page, into the memory of every forked worker, because
    merely reading a Python object writes its reference count.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._ends = np.cumsum([0] + [len(string) for string in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        string = self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()
        return string.decode("utf-8", "surrogateescape")


def cache_file(kind: str, *identity: object, suffix: str) -> Path:
    """The cache file of what was derived from the data that `identity` names.

    Caches lie in `$VQRAE_CACHE`, else in `vqrae` in the XDG cache folder.
    """
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    root = os.environ.get("VQRAE_CACHE") or shared / "vqrae"
    return Path(root, kind, hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest() + suffix)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a cache file so that other processes see all of it or nothing.

    Raises:
        UserError: the cache folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot write the data cache ({one_line(error)}); "
            "set VQRAE_CACHE to a folder that can be written"
        ) from error
