"""The contract of a place that holds records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

HELD = b"held"
"""Stands for an encoded picture in what `Records.scan` gives: it is there, and its bytes have not been read."""


class Found(NamedTuple):
    """A record, and where it lies: `place` and `size` are two numbers that its source finds it by.

    `record` is a `BadSample` where the source cannot give one.
    """

    place: int
    size: int
    record: Any


class Records(ABC):
    """The records of one source, in a fixed order.

    Attributes:
        name: as the user wrote it.
        unit: what `place` + `size` counts, for a progress bar. total: of it.
    """

    name: str
    unit: str
    total: int

    @abstractmethod
    def fingerprint(self) -> tuple[object, ...]:
        """Another one as soon as a record may be another."""

    @abstractmethod
    def scan(self) -> Iterator[Found]:
        """All of them, in order; encoded pictures may be `HELD`.

        Raises:
            UserError: the place is damaged.
        """

    @abstractmethod
    def read(self, place: int, size: int) -> Any:
        """One of them, its encoded pictures in it.

        Raises:
            UserError: it changed since it was opened. BadSample: it cannot be had.
        """
