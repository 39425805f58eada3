"""The summaries of many shards in columns, as a count file has them: ten thousand are read and added in a moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from common.data.tars.shard_index import FORMAT, Summary

NUMBERS = ("size", "samples", "several", "captions", "unlike")
KINDS = ("pictures", "others", "texts", "fields", "left_out")
REST = ("version", "example", "doubt", "first_left_out", "compound", "possible")


@dataclass(frozen=True)
class Counts:
    """Of n shards, every field of `Summary`.

    Args:
        numbers: field -> (n,) int64.
        kinds: field -> what is counted -> (n,) int64.
        rest: field -> (n,) plain values.
    """

    names: list[str]
    numbers: dict[str, np.ndarray]
    kinds: dict[str, dict[str, np.ndarray]]
    rest: dict[str, list[Any]]

    @classmethod
    def of(cls, summaries: Mapping[str, Summary]) -> Counts:
        """Name -> summary, in columns."""
        rows = list(summaries.values())
        kinds: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
        for kind, columns in kinds.items():
            for place, row in enumerate(rows):
                for what, count in getattr(row, kind).items():
                    columns.setdefault(what, np.zeros(len(rows), dtype=np.int64))[place] = count
        numbers = {name: np.array([getattr(row, name) for row in rows], dtype=np.int64) for name in NUMBERS}
        return cls(
            list(summaries), numbers, kinds, {name: [getattr(row, name) for row in rows] for name in REST}
        )

    @classmethod
    def from_json(cls, told: Any) -> Counts:
        """Raises:
        ValueError: it was written by another version, or is no such thing.
        """
        try:
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}")
            counts = cls(
                told["names"],
                {name: np.array(told[name], dtype=np.int64) for name in NUMBERS},
                {kind: {what: np.array(each) for what, each in told[kind].items()} for kind in KINDS},
                {name: told[name] for name in REST},
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no count file: {error}") from error
        columns: list[Any] = [*counts.numbers.values(), *counts.rest.values()]
        columns += [each for kind in counts.kinds.values() for each in kind.values()]
        if any(len(each) != len(counts.names) for each in columns):
            raise ValueError("columns of several lengths")
        return counts

    def to_json(self) -> dict[str, Any]:
        kinds = {kind: {what: each.tolist() for what, each in self.kinds[kind].items()} for kind in KINDS}
        numbers = {name: each.tolist() for name, each in self.numbers.items()}
        return {"format": FORMAT, "names": self.names, **numbers, **kinds, **self.rest}

    def __len__(self) -> int:
        return len(self.names)

    def rows(self) -> dict[str, Summary]:
        """Name -> summary."""
        columns: dict[str, Sequence[Any]] = {
            **{name: each.tolist() for name, each in self.numbers.items()},
            **self.rest,
        }
        kinds = {kind: {what: each.tolist() for what, each in self.kinds[kind].items()} for kind in KINDS}
        return {
            name: Summary(
                **{field: column[place] for field, column in columns.items()},
                **{
                    kind: cast(Any, {what: column[place] for what, column in each.items() if column[place]})
                    for kind, each in kinds.items()
                },
            )
            for place, name in enumerate(self.names)
        }

    def take(self, places: np.ndarray) -> Counts:
        """The shards at `places`, (k,) int64, in that order."""
        chosen = places.tolist()
        return Counts(
            [self.names[place] for place in chosen],
            {name: each[places] for name, each in self.numbers.items()},
            {
                kind: {what: each[places] for what, each in columns.items()}
                for kind, columns in self.kinds.items()
            },
            {name: [each[place] for place in chosen] for name, each in self.rest.items()},
        )

    def __add__(self, other: Counts) -> Counts:
        """These shards and those of `other` behind them."""
        kinds = {}
        for kind in KINDS:
            mine, theirs = self.kinds[kind], other.kinds[kind]
            kinds[kind] = {
                what: np.concatenate(
                    [
                        mine.get(what, np.zeros(len(self), np.int64)),
                        theirs.get(what, np.zeros(len(other), np.int64)),
                    ]
                )
                for what in dict.fromkeys((*mine, *theirs))
            }
        return Counts(
            self.names + other.names,
            {name: np.concatenate([self.numbers[name], other.numbers[name]]) for name in NUMBERS},
            kinds,
            {name: self.rest[name] + other.rest[name] for name in REST},
        )

    def total(self, number: str) -> int:
        return int(self.numbers[number].sum())

    def totals(self, kind: str) -> Counter[str]:
        """What is counted -> how many in all; nothing that is not there."""
        sums = {what: int(each.sum()) for what, each in self.kinds[kind].items()}
        return Counter({what: count for what, count in sums.items() if count})

    def first(self, field: str) -> str:
        """The first text of `example` or `doubt` that is none of ''."""
        return next(filter(None, self.rest[field]), "")
