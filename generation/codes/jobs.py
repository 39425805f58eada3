"""What is to be done for a recipe's sources: one job for each slice, which any process may take.

What is notable here: the file that a job ends in is named only once somebody looks at the job, since its name follows
from a first and a last picture; what a source's record knows already is not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.data.accounts import check_captions
from common.data.config import SourceConfig
from common.data.corrupt import CorruptCounter
from common.data.open import open_indexed
from common.data.sources import IndexedSource
from common.errors import UserError
from generation.codes.record import (
    CodeFiles,
    Slice,
    SourceRecord,
    described,
    find_record,
    probe,
    slices,
    told,
    write_record,
)
from generation.codes.shard import ShardOrigin, captions_path, open_captions, open_shard, shard_path


@dataclass
class Job:
    """Codes and captions of one slice."""

    owner: SourceJobs
    piece: Slice
    known: str | None
    """The shard that the record names for this very slice."""

    @property
    def root(self) -> Path:
        return self.owner.root

    @cached_property
    def probe(self) -> str:
        return probe(self.owner.source, self.piece)

    @cached_property
    def shard(self) -> str:
        """The name of its codes.

        Raises:
            UserError: there are none, and none are to be made.
        """
        if self.known is not None:
            return self.known
        stated = self.owner.stated
        name = self.piece.shard(stated.kind, stated.image_column, self.probe)
        if self.owner.captions_only and not shard_path(self.root, name).is_file():
            return self._same_pictures()
        return name

    def _same_pictures(self) -> str:
        """The shard of this slice as it was: its file was written anew, its first and last picture are the same."""
        for entry in self.owner.former:
            if (entry.name, entry.first, entry.count) == (
                self.piece.name,
                self.piece.first,
                self.piece.count,
            ):
                shard = open_shard(shard_path(self.root, entry.shard))
                if shard.origin.probe == self.probe:
                    return entry.shard
        raise UserError(
            f"{self.owner.stated.path}: {self.piece.name or 'its pictures'}: {self.root} has no codes of these "
            "pictures, and --captions-only encodes nothing; run without it"
        )

    @cached_property
    def captions(self) -> str:
        return self.piece.captions(self.shard, self.owner.stated, self.owner.source)

    @property
    def origin(self) -> ShardOrigin:
        piece = self.piece
        return ShardOrigin(piece.name, piece.fingerprint, piece.first, piece.count, self.probe)

    @property
    def paths(self) -> tuple[Path, Path]:
        return shard_path(self.root, self.shard), captions_path(self.root, self.captions)

    @property
    def encoded(self) -> bool:
        return self.paths[0].is_file()

    @property
    def done(self) -> bool:
        return all(path.is_file() for path in self.paths)

    @property
    def indices(self) -> range:
        """Of its pictures, in the source."""
        return range(self.piece.start, self.piece.start + self.piece.count)

    def files(self) -> CodeFiles:
        """What is there, once it is done."""
        shard, captions = open_shard(self.paths[0]), open_captions(self.paths[1])
        piece = self.piece
        return CodeFiles(
            *(piece.name, piece.fingerprint, piece.first, piece.count, self.shard, self.captions),
            sizes=tuple(path.stat().st_size for path in self.paths),  # type: ignore[arg-type]
            samples=len(shard),
            captioned=captions.captioned,
            skipped=len(shard.skipped),
        )


@dataclass
class SourceJobs:
    """All jobs of one source.

    Args:
        longest: pictures of a shard at most.
        captions_only: nothing is to be encoded.

    Raises:
        UserError: the source can only be streamed, cannot be opened, or has no captions where they are wanted.
    """

    root: Path
    stated: SourceConfig
    longest: int
    captions_only: bool = False
    source: IndexedSource = field(init=False)
    former: tuple[CodeFiles, ...] = field(init=False)
    jobs: list[Job] = field(init=False)

    def __post_init__(self) -> None:
        self.source = open_indexed(self.stated)
        check_captions(self.stated, self.source.account())
        record = find_record(self.root, described(self.stated))
        self.former = record.files if record is not None else ()
        known = {
            entry.slice: entry.shard for entry in self.former if shard_path(self.root, entry.shard).is_file()
        }
        self.jobs = [Job(self, piece, known.get(piece.key)) for piece in slices(self.source, self.longest)]

    def finish(self, max_skipped: float) -> str:
        """Write the record, and say in a line what it holds. Any process does it, and writes the same.

        Raises:
            UserError: too many pictures could not be read; then there is no new record.
        """
        former = {(*entry.slice, entry.shard, entry.captions): entry for entry in self.former}
        files = [former.get((*job.piece.key, job.shard, job.captions)) or job.files() for job in self.jobs]
        record = SourceRecord(described(self.stated), tuple(files))
        skipped = list(self._first_skipped(files))
        counter = CorruptCounter(max_skipped, "data.max_corrupt_share")
        counter.add(skipped + [""] * (record.total("skipped") - len(skipped)), record.total("count"))
        counter.names = skipped
        counter.check()
        write_record(self.root, record)
        return told(record, skipped[0] if skipped else "", self.source.account().left_out)

    def _first_skipped(self, files: Sequence[CodeFiles]) -> Iterator[str]:
        for entry in files:
            if entry.skipped:
                yield open_shard(shard_path(self.root, entry.shard)).skipped[0]
                return
