"""The index of one tar: its samples, and where the bytes of their members lie; made in one walk through the tar.

It knows nothing of recipes: which picture and which caption are meant is decided where it is read (`selection`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.data.blobs import Stat, read_at
from common.data.strings import StringTable
from common.data.tars.captions import is_json, json_members, of_field, of_member, record_of, standard_places
from common.data.tars.members import Contents, Member, Piece, read_contents, read_member
from common.data.tars.names import TEXTS, is_picture, split_names
from common.errors import UserError, refusing

FORMAT = 1
KEPT = 64  # kinds of members, and fields of JSON, that are counted by name
LONGEST_TEXT = 1 << 20  # bytes; longer texts are no captions
NO_PICTURE = "samples without a picture"
RARE = "members of rarer endings"
NO_ENDING = "members without an ending"


@dataclass
class Summary:
    """What is told of a tar without opening its index; plain values, for JSON.

    Args:
        size, version: of the tar, as `blobs.stat` gave them when it was scanned.
        samples: keys that have at least one picture.
        several, example: samples with more than one, and one of them with its endings.
        pictures: ending -> samples that have it.
        others: ending -> members that are no pictures, of these samples.
        texts: ending -> samples where that member holds a text; of the endings in `names.TEXTS`.
        fields: key of their JSON -> samples where it holds a text.
        captions: samples with a caption in a standard place.
        unlike, doubt: samples whose standard places say different things, and one of them.
        left_out, first_left_out: reason -> how many, and the first one's name.
        compound, possible: endings of more than one word, and what might be one (see `names`).
    """

    size: int
    version: str
    samples: int = 0
    several: int = 0
    example: str = ""
    pictures: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    fields: dict[str, int] = field(default_factory=dict)
    captions: int = 0
    unlike: int = 0
    doubt: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    first_left_out: dict[str, str] = field(default_factory=dict)
    compound: list[str] = field(default_factory=list)
    possible: list[str] = field(default_factory=list)
    format: int = FORMAT

    def is_of(self, found: Stat) -> bool:
        return (self.size, self.version, self.format) == (*found, FORMAT)

    @classmethod
    def from_json(cls, value: Any) -> Summary | None:
        """None where it was written by another version."""
        try:
            return cls(**value)
        except TypeError:
            return None


@dataclass(frozen=True)
class ShardIndex:
    """n samples with m members in all.

    Args:
        keys: (n,) in the order of their first members.
        first: (n + 1,) int64: the members of sample i are first[i] ... first[i + 1] - 1.
        endings: of any member, in lower case.
        ending: (m,) int32: which of `endings`.
        places: (m, 2) int64: offset and size in bytes.
        pieces: (k, 4) int64, of sparse members: member, and `Piece`.
    """

    keys: StringTable
    first: np.ndarray
    endings: list[str]
    ending: np.ndarray
    places: np.ndarray
    pieces: np.ndarray

    def members(self, sample: int) -> dict[str, int]:
        """Ending -> member of a sample."""
        found = range(int(self.first[sample]), int(self.first[sample + 1]))
        return {self.endings[self.ending[member]]: member for member in found}

    def read(self, path: str, member: int) -> bytes:
        """A member's content; raises what `read_at` does."""
        offset, size = (int(number) for number in self.places[member])
        pieces = self.pieces[self.pieces[:, 0] == member, 1:] if len(self.pieces) else self.pieces
        if not len(pieces):
            return read_at(path, offset, size)
        return read_member(path, offset, size, tuple(Piece(*map(int, piece)) for piece in pieces))


def scan(path: str, found: Stat, known: Collection[str] = ()) -> tuple[ShardIndex, Summary]:
    """Walk through a tar.

    Args:
        found: the tar as it is now.
        known: compound endings of other tars of the set.

    Raises:
        UserError: it cannot be read, or is no sound, plain tar; names it.
    """
    contents = read_contents(path)
    summary = Summary(found.size, found.version)
    split = split_names([member.name for member in contents.members], known)
    samples: dict[str, dict[str, Member]] = {}
    for member, (key, ending) in zip(contents.members, split.names, strict=True):
        if not ending:
            contents.leave_out(NO_ENDING, member.name)
            continue
        if ending in samples.setdefault(key, {}):
            raise UserError(f"{path}: {member.name}: {key} has two members .{ending}")
        samples[key][ending] = member
    summary.compound, summary.possible = sorted(split.found), sorted(split.possible)
    index = _index(samples)
    _summarise(path, samples, contents, summary)
    return index, summary


def _index(samples: dict[str, dict[str, Member]]) -> ShardIndex:
    members = [(ending, member) for sample in samples.values() for ending, member in sample.items()]
    endings = sorted({ending for ending, _ in members})
    number = {ending: place for place, ending in enumerate(endings)}
    pieces = [(at, *piece) for at, (_, member) in enumerate(members) for piece in member.pieces or ()]
    return ShardIndex(
        keys=StringTable(samples),
        first=np.cumsum([0, *map(len, samples.values())], dtype=np.int64),
        endings=endings,
        ending=np.array([number[ending] for ending, _ in members], dtype=np.int32),
        places=np.array([(member.offset, member.size) for _, member in members], dtype=np.int64).reshape(
            -1, 2
        ),
        pieces=np.array(pieces, dtype=np.int64).reshape(-1, 4),
    )


def _summarise(
    path: str, samples: dict[str, dict[str, Member]], contents: Contents, summary: Summary
) -> None:
    pictures: Counter[str] = Counter()
    others: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for key, sample in samples.items():
        of_sample = sorted(filter(is_picture, sample))
        if not of_sample:
            contents.leave_out(NO_PICTURE, key)
            continue
        summary.samples += 1
        pictures.update(of_sample)
        others.update(ending for ending in sample if not is_picture(ending))
        if len(of_sample) > 1:
            summary.several += 1
            summary.example = (
                summary.example or f"{key} has {', '.join(f'.{ending}' for ending in of_sample)}"
            )
        _look_at_texts(path, key, sample, contents, texts, fields, summary)
    summary.pictures, summary.others = dict(pictures.most_common(KEPT)), dict(others.most_common(KEPT))
    if rare := sum(others.values()) - sum(summary.others.values()):
        contents.left_out[RARE] = (rare, others.most_common()[-1][0])
    summary.texts, summary.fields = dict(texts), dict(fields.most_common(KEPT))
    summary.left_out = {reason: count for reason, (count, _) in contents.left_out.items()}
    summary.first_left_out = {reason: name for reason, (_, name) in contents.left_out.items()}


def _look_at_texts(
    path: str,
    key: str,
    sample: dict[str, Member],
    contents: Contents,
    texts: Counter[str],
    fields: Counter[str],
    summary: Summary,
) -> None:
    readers = {
        ending: _reader(path, member)
        for ending, member in sample.items()
        if ending.rpartition(".")[2] in TEXTS and member.size <= LONGEST_TEXT
    }
    records = {ending: record_of(readers[ending]()) or {} for ending in json_members(readers)}
    for ending, record in records.items():
        fields.update(name for name in record if of_field(ending, record, name).caption)
    for ending, read in readers.items():
        texts[ending] += not is_json(ending) and of_member(ending, read()).caption is not None
    places = list(standard_places(readers))
    if not any(place.caption for place in places):
        for problem in sorted({place.problem for place in places if place.problem}):
            contents.leave_out(problem, key)
    places = [place for place in places if place.caption]
    summary.captions += bool(places)
    if len({" ".join(str(place.caption).split()) for place in places}) > 1:
        summary.unlike += 1
        summary.doubt = summary.doubt or f"{key} has {', '.join(place.name for place in places)}"


def _reader(path: str, member: Member) -> Callable[[], bytes]:
    kept: list[bytes] = []

    def read() -> bytes:
        if not kept:
            kept.append(read_member(path, member.offset, member.size, member.pieces))
        return kept[0]

    return read


def write_index(file: BinaryIO, index: ShardIndex, summary: Summary) -> None:
    arrays = {
        "keys": index.keys.content,
        "key_ends": index.keys.ends,
        "first": index.first,
        "ending": index.ending,
        "places": index.places,
        "pieces": index.pieces,
    }
    told = {"summary": json.dumps(asdict(summary)), "endings": json.dumps(index.endings)}
    file.write(save(arrays, metadata=told))


def read_index(path: str) -> ShardIndex:
    """Raises:
    FileNotFoundError: there is none. UserError: it cannot be read.
    """
    with _opened(path) as file:
        get = file.get_tensor
        return ShardIndex(
            keys=StringTable.of(get("keys"), get("key_ends")),
            first=get("first"),
            endings=json.loads(file.metadata()["endings"]),
            ending=get("ending"),
            places=get("places"),
            pieces=get("pieces"),
        )


def read_summary(path: str) -> Summary | None:
    """None where there is none, or one of another version."""
    try:
        with _opened(path) as file:
            return Summary.from_json(json.loads(file.metadata()["summary"]))
    except (FileNotFoundError, UserError, KeyError):
        return None


def _opened(path: str) -> Any:
    with refusing(f"{path}: no index of a shard; remove it", ValueError, RuntimeError, SafetensorError):
        return safe_open(path, "numpy")
