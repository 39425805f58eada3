"""Records in WebDataset tars: a sample's JSON is the record, and its pictures lie beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from common.data.blobs import listed
from common.data.tars.catalogue import catalogued, refuse_damaged
from common.data.tars.names import is_picture
from common.data.tars.shard_index import ShardIndex
from common.data.tars.store import load_index
from common.errors import UserError
from common.text import parse_json
from understanding.layouts import PICTURES, BadSample
from understanding.records.source import HELD, Found, Records

_DIGITS = re.compile(r"(\d+)")


class Tars(Records):
    """`place` is a shard, `size` a sample of it.

    A sample's pictures are shown in the order of their names (`0000.0.jpg`, `0000.1.jpg`); where its JSON names them as
    they are named in the shard, in the order of the JSON.

    Args:
        pattern: a folder, a glob, or a brace range.
        ending: of the pictures that are meant, `jpg`; None takes all of a sample.
        max_damaged: shards that may be left out, of all.
    """

    unit = "sample"

    def __init__(self, pattern: str, ending: str | None, max_damaged: float) -> None:
        self.name = pattern
        self._ending = ending.lower().removeprefix(".") if ending is not None else None
        found = catalogued(listed(pattern, (".tar",), "shards"))
        refuse_damaged(found.damaged, found.total, pattern, max_damaged)
        self._paths, self._summaries = found.paths, found.summaries
        self.total = sum(summary.samples for summary in found.summaries)

    def fingerprint(self) -> tuple[object, ...]:
        versions = [(summary.size, summary.version) for summary in self._summaries]
        return "tars", self._ending, *zip(self._paths, versions, strict=True)

    def scan(self) -> Iterator[Found]:
        for shard in range(len(self._paths)):
            index = self._index(shard)
            for sample in range(len(index.keys)):
                try:
                    record = self._record(shard, index, sample, held=True)
                except BadSample as problem:
                    record = problem
                yield Found(shard, sample, record)

    def read(self, place: int, size: int) -> Any:
        return self._record(place, self._index(place), size, held=False)

    def _index(self, shard: int) -> ShardIndex:
        summary = self._summaries[shard]
        return load_index(self._paths[shard], summary.size, summary.version)

    def _record(self, shard: int, index: ShardIndex, sample: int, held: bool) -> Any:
        path, key = self._paths[shard], index.keys[sample]
        members = index.members(sample)
        where = f"{path.rpartition('/')[2]}/{key}"
        if "json" not in members:
            raise BadSample("a sample without a .json", where)
        content = index.read(path, members["json"])
        try:
            record = parse_json(content, where, nan=True)
        except UserError as error:
            raise BadSample("damaged JSON", str(error)) from error
        if not isinstance(record, dict):
            return record
        pictures = {ending: member for ending, member in members.items() if self._is_meant(ending)}
        named = {name: record[name] for name in PICTURES if record.get(name)}
        ordered = _in_order(pictures, key, next(iter(named.values()), None)) if pictures else []
        record.setdefault("id", where)
        if not ordered:
            return record
        rest = {name: value for name, value in record.items() if name not in named}
        return {**rest, "images": [HELD if held else index.read(path, member) for member in ordered]}

    def _is_meant(self, ending: str) -> bool:
        return is_picture(ending) and self._ending in (None, ending)


def _in_order(pictures: dict[str, int], key: str, named: Any) -> list[int]:
    """The members of a sample that are shown, in order.

    Raises:
        BadSample: the JSON names other pictures than lie beside it.
    """
    base = key.rpartition("/")[2]
    by_name = {f"{base}.{ending}": member for ending, member in pictures.items()}
    natural = sorted(
        pictures, key=lambda ending: [int(p) if p.isdigit() else p for p in _DIGITS.split(ending)]
    )
    if named is None:
        return [pictures[ending] for ending in natural]
    names = named if isinstance(named, list) else [named]
    last = [name.rpartition("/")[2] for name in names if isinstance(name, str)]
    if last and len(last) == len(names) and all(name in by_name for name in last):
        return [by_name[name] for name in last]
    if len(names) != len(pictures):
        raise BadSample(
            "the JSON names other pictures than lie beside it", f"{len(names)} for {', '.join(natural)}"
        )
    return [pictures[ending] for ending in natural]
