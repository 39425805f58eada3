"""What lies in a tar: every member with the place of its bytes, or the reason why it is left out.

The headers are read by `tarfile`. Added here is what it passes over in silence: a header in the middle that is none, a
second tar behind the end mark of the first, links (which are entries of their own here) and the holes of sparse
members.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, cast

from common.data.blobs import open_blob, read_at, stat
from common.errors import UserError, refusing

BLOCK = 512
LONGEST_SPARSE = 1 << 30  # bytes; the holes of a sparse member may claim any size
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -d"),
    b"PK\x03\x04": ("zip", "unzip, then tar"),
}
"""How a file begins -> what compressed it, and what to call against it."""
NO_END = "shards without an end mark, which may have been cut off"
HIDDEN = "hidden members, as macOS adds them"
LINKS = "links to what is not in their tar"
DEVICES = "devices and pipes"
STRANGE = "members of a kind that holds no file"
LARGE_HOLES = "sparse members over 1 GiB"


class Piece(NamedTuple):
    """Bytes of a sparse member: where they belong in its content, how many, where they lie in the tar."""

    at: int
    size: int
    offset: int


class Member(NamedTuple):
    """A file in a tar. `name` has no `./`; `pieces` is None where its `size` bytes lie together at `offset`."""

    name: str
    offset: int
    size: int
    pieces: tuple[Piece, ...] | None = None


@dataclass
class Contents:
    """A tar's members, in its order, and what was left out: reason -> (how many, the first one's name)."""

    members: list[Member] = field(default_factory=list)
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        count, first = self.left_out.get(reason, (0, name))
        self.left_out[reason] = (count + 1, first)


def read_contents(path: str) -> Contents:
    """All members of the tar at `path`, a local path or a URL.

    Raises:
        UserError: it cannot be read, is no tar, compressed, damaged or truncated, or has two members of one name.
    """
    total = stat(path).size
    contents = Contents()
    links: list[tuple[int, str, str]] = []  # place among the members, name, name of the target
    with refusing(f"{path}: no plain tar, or a damaged one"), open_blob(path) as file:
        _refuse_compressed(path, file)
        for header in _headers(path, file, total, contents):
            name = normalised(header.name)
            if header.isdir():
                continue
            if _hidden(name):
                contents.leave_out(HIDDEN, name)
            elif header.islnk():
                links.append((len(contents.members), name, normalised(header.linkname)))
            elif header.issym():
                target = posixpath.join(posixpath.dirname(name), header.linkname)
                links.append((len(contents.members), name, posixpath.normpath(target)))
            elif header.isreg():
                _add(path, header, name, total, contents)
            else:
                reason = DEVICES if header.isdev() else STRANGE
                contents.leave_out(reason, name)
    _follow(links, contents)
    _refuse_twins(path, contents)
    return contents


def normalised(name: str) -> str:
    """A member's name without `./`, doubled slashes, or one at its start."""
    return posixpath.normpath(name).lstrip("/")


def read_member(path: str, offset: int, size: int, pieces: tuple[Piece, ...] | None = None) -> bytes:
    """A member's content, holes filled with zeros; raises what `read_at` does."""
    if pieces is None:
        return read_at(path, offset, size)
    content = bytearray(size)
    for piece in pieces:
        content[piece.at : piece.at + piece.size] = read_at(path, piece.offset, piece.size)
    return bytes(content)


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts)


def _refuse_compressed(path: str, file: BinaryIO) -> None:
    start = file.read(max(map(len, COMPRESSED)))
    for magic, (program, remedy) in COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{path}: compressed by {program}; shards are read at random, which needs plain tars: {remedy}"
            )


def _headers(path: str, file: BinaryIO, total: int, contents: Contents) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, and of those that were appended behind its end mark."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            for header in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all it has seen
                if tar.offset <= header.offset or header.size < 0:
                    raise UserError(f"{path}: damaged tar: {header.name} has a size that cannot be")
                yield header
            end = tar.offset
        start = _start_of_next(path, file, start, end, total, contents)


def _start_of_next(
    path: str, file: BinaryIO, start: int, end: int, total: int, contents: Contents
) -> int | None:
    """Where another tar begins behind the one that ended at `end`; None where nothing but zeros follows."""
    file.seek(end)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        if block.strip(b"\0"):
            raise UserError(f"{path}: truncated shard: ends within a header, at byte {end + len(block)}")
        if start != end:
            contents.leave_out(NO_END, path)
        return None
    if block.strip(b"\0"):
        raise UserError(f"{path}: damaged tar: no header at byte {end}")
    position = end + BLOCK
    while chunk := file.read(1 << 20):
        if rest := chunk.lstrip(b"\0"):
            return position + (len(chunk) - len(rest)) // BLOCK * BLOCK
        position += len(chunk)
    return None


def _add(path: str, header: tarfile.TarInfo, name: str, total: int, contents: Contents) -> None:
    offset, pieces = header.offset_data, None
    stored = header.size
    if header.issparse():
        pieces, place = [], offset
        for at, size in cast(list[tuple[int, int]], header.sparse):
            if at < 0 or size < 0 or at + size > header.size:
                raise UserError(f"{path}: damaged tar: the holes of {name} do not fit its size")
            if size:
                pieces.append(Piece(at, size, place))
            place += size
        stored = place - offset
    if offset + stored > total:
        raise UserError(f"{path}: truncated shard: {name} ends past the end of the file")
    if pieces is not None and header.size > LONGEST_SPARSE:
        contents.leave_out(LARGE_HOLES, name)
        return
    contents.members.append(Member(name, offset, header.size, None if pieces is None else tuple(pieces)))


def _follow(links: list[tuple[int, str, str]], contents: Contents) -> None:
    """Puts a member in the place of every link that leads to one, by way of others too."""
    if not links:
        return
    files = {member.name: member for member in contents.members}
    targets = {name: target for _, name, target in links}
    found: list[tuple[int, Member]] = []
    for place, name, target in links:
        seen = {name}
        while target not in files and target in targets and target not in seen:
            seen.add(target)
            target = targets[target]
        if target in files:
            found.append((place, files[target]._replace(name=name)))
        else:
            contents.leave_out(LINKS, name)
    for place, member in reversed(found):
        contents.members.insert(place, member)


def _refuse_twins(path: str, contents: Contents) -> None:
    names = set()
    for member in contents.members:
        if member.name in names:
            raise UserError(f"{path}: {member.name} is in it twice; nothing tells which one is meant")
        names.add(member.name)
