"""Where images come from. A source says which encoded image stands at a position of its order.

A variant is a sibling file with the same contract (`folder`, `shards`, `hub`, `hub_stream`), chosen by `open_source`.
To add one: subclass `IndexedSource` if any sample can be read by index, else `Source`; give it a `kind` in
`SourceConfig`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.data.images import CorruptImage
from common.data.order import derive_key, permuted


@dataclass(frozen=True)
class RawImage:
    """An image before decoding: a key unique in its source, encoded bytes, a local path or why it is not there, a
    caption."""

    key: str
    data: bytes | str | CorruptImage
    caption: str | None = None


@dataclass(frozen=True)
class Account:
    """What a source was given, and what became of it.

    Args:
        samples: that can be drawn; None where only reading to the end would tell.
        captions: of them, those with a caption; None where only reading would tell.
        left_out: what was found beside them and is not used: why -> how many files, members or rows.
    """

    samples: int | None
    captions: int | None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A piece of a source that changes as a whole: a tar, a table, a slice of a folder.

    Args:
        name: unique in its source, and the same wherever the source is mounted.
        fingerprint: another one as soon as a picture in it may be another (size and time of the file, ...).
        start, count: its samples are `start` ... `start + count - 1` of the source.
    """

    name: str
    fingerprint: str
    start: int
    count: int


class Source(ABC):
    """An endless sequence of samples, epoch after epoch, shuffled by a seed."""

    name: str  # as the user wrote it: stands in messages
    lanes: int | None = (
        None  # parts that are read side by side, forward only; None: any sample is reached directly
    )

    def account(self) -> Account:
        return Account(None, None)

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

    def account(self) -> Account:
        return Account(len(self), None)

    def parts(self) -> Sequence[Part]:
        """All of it, in the order of their indices.

        Raises:
            NotImplementedError: nothing tells when its pictures change.
        """
        raise NotImplementedError(type(self).__name__)

    def fingerprint(self) -> str:
        """Of all parts: another one as soon as any picture may be another, or comes or goes."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self.parts():
            digest.update(repr((part.name, part.fingerprint, part.count)).encode())
        return digest.hexdigest()

    def captions_version(self, start: int, count: int) -> str:
        """Another one as soon as a caption of samples `start` ... `start + count - 1` may be another, where captions
        lie apart from the pictures, so that their part's fingerprint does not tell."""
        return ""

    def shuffled(self, epoch: int, offset: int, seed: int) -> int:
        """The index of the sample that comes at `offset` of an epoch."""
        return permuted(offset, len(self), derive_key(seed, "epoch", epoch))

    def sample(self, position: int, seed: int, attempt: int = 0) -> RawImage:
        if attempt:
            return self.read(derive_key(seed, "substitute", position, attempt) % len(self))
        epoch, offset = divmod(position, len(self))
        return self.read(self.shuffled(epoch, offset, seed))
