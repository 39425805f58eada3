"""`metrics.jsonl`: one record a line, only ever appended to; and the one way to read it back.

A run that is resumed appends `{"kind": "resume", "step": n}`: what stood behind step n before that line is superseded
by what follows it. A kill, a full disk or a power cut leaves a torn line at most, which is passed over: the next start
ends it with a line break and goes on behind it.

It is JSON in the strict sense, which knows no NaN and no Infinity: such a number is written as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import refusing
from common.files import writing

FILE = "metrics.jsonl"
RESUME = "resume"

Record = dict[str, Any]


def read_records(run: str | Path, kind: str | None = None) -> list[Record]:
    """The records of a run in the order of their steps, or those of one `kind`, without what a resume superseded.

    Args:
        run: its folder, or its `metrics.jsonl`.

    Raises:
        UserError: the file is not there, or cannot be opened.
    """
    path = Path(run)
    if path.is_dir():
        path = path / FILE
    kept: list[Record] = []
    with refusing(path, OSError):
        lines = path.read_bytes().split(b"\n")
    for record in filter(None, map(_parsed, lines)):
        if record["kind"] == RESUME:
            kept = [earlier for earlier in kept if earlier["step"] <= record["step"]]
        else:
            kept.append(record)
    return [record for record in kept if kind in (None, record["kind"])]


def _parsed(line: bytes) -> Record | None:
    """A record; None for what a torn write left, whatever it looks like."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        return None
    whole = isinstance(record, dict) and isinstance(record.get("kind"), str)
    return record if whole and type(record.get("step")) is int else None


class Records:
    """Appends to a run's `metrics.jsonl`.

    Args:
        run: its folder.
        start: the step that the run goes on from; if there are records already, those behind it are superseded.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, run: Path, start: int) -> None:
        self.path = run / FILE
        with writing(self.path):
            self._file: BinaryIO = self.path.open("ab+")
            if self._file.tell():
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":
                    self._append(b"\n")
                self.rewind(start)

    def rewind(self, step: int) -> None:
        """What stands behind a step is superseded by what follows.

        Raises:
            UserError: it cannot be written.
        """
        self.append({"step": step, "kind": RESUME})

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record with at least `step` and `kind`.

        Raises:
            UserError: it cannot be written.
        """
        with writing(self.path):
            self._append(_line(record))

    def _append(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        with writing(self.path):
            self._file.close()


def _line(record: Mapping[str, Any]) -> bytes:
    plain = {key: _finite(value) for key, value in record.items()}
    return (json.dumps(plain, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
