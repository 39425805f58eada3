"""Records in a file of JSON: a list, JSON Lines, or an object around a list. One is held in memory at a time."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line, refusing
from common.text import shown
from understanding.layouts import BadSample
from understanding.records.source import Found, Records

CHUNK = 1 << 22  # bytes read at a time
HEAD = 1 << 16  # bytes that tell whether there is an object around the list
LONGEST_INTEGER = 400  # digits; a longer one is read as a float, and Python would refuse it from 4300 on
_BETWEEN = re.compile(r"[\s,\[\]]*")  # what stands between records, in a list as in JSON Lines
_WRAPPED = re.compile(
    r'\s*\{\s*(?:"[^"\\]*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|\{[^{}]*\}|[^\s"{}\[\],]+)\s*,\s*)*'
    r'"(?:data|records|samples|examples)"\s*:\s*(?=\[)'
)
"""The beginning of an object that holds the list of records; what stands before it is short and flat."""


class JsonFile(Records):
    """LLaVA's annotations, and whatever else is such a file. `place` and `size` are bytes of it."""

    unit = "B"

    def __init__(self, path: str) -> None:
        """Raises:
        UserError: there is no such file.
        """
        self.name = path
        with refusing(f"{path}: data.sources.annotations", OSError):
            status = Path(path).stat()
        self.total, self._changed = status.st_size, status.st_mtime_ns

    def fingerprint(self) -> tuple[object, ...]:
        return str(Path(self.name).resolve()), self.total, self._changed

    def scan(self) -> Iterator[Found]:
        return (Found(*found) for found in read_records(self.name))

    def read(self, place: int, size: int) -> Any:
        text = os.pread(_descriptor(self.name, self._changed), size, place)
        try:
            return _DECODER.decode(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.name}: was changed while it is in use") from error


def read_records(path: str) -> Iterator[tuple[int, int, Any]]:
    """Offset and size in bytes, and the value, of each record.

    A published file is one list of a gigabyte, whose objects would take five; here one record is held at a time.

    Raises:
        UserError: not UTF-8, no JSON, nested too deeply, or cut off; names the byte.
    """
    with Path(path).open("rb") as file:
        yield from _Reader(path, file).records()


class _Reader:
    """A file's text from `place` on; `offset` is the byte of the file that `place` stands at."""

    def __init__(self, path: str, file: Any) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._place = "", 0
        head = file.read(HEAD)
        self._offset = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        around = _WRAPPED.match(head.decode("utf-8-sig", "ignore"))
        self._wrapped = around is not None
        if around is not None:
            self._offset += len(around[0].encode())
        file.seek(self._offset)
        self._ended = False

    def records(self) -> Iterator[tuple[int, int, Any]]:
        opened = closed = False  # the brackets of a list
        wanted = CHUNK
        while True:
            between = _BETWEEN.match(self._text, self._place)
            assert between is not None
            self._pass(between.end())
            opened, closed = opened or "[" in between[0], closed or "]" in between[0]
            if self._wrapped and closed:
                break
            if self._place < len(self._text):
                found = self._value()
                if found is not None:
                    wanted = CHUNK
                    yield found
                    continue
            elif self._ended:
                break
            self._more(wanted)
            wanted *= 2  # a record that is longer than a chunk is not decoded again and again
        if self._wrapped and closed:
            self._finish()
        if opened and not closed:
            raise self._damaged(ValueError("the list is cut off"))

    def _value(self) -> tuple[int, int, Any] | None:
        """The value at `place`; None where its end has not been read yet."""
        try:
            value, end = _DECODER.raw_decode(self._text, self._place)
        except RecursionError as error:
            raise self._damaged(ValueError("a record is nested too deeply")) from error
        except ValueError as error:
            if self._ended:
                raise self._damaged(error) from error
            return None
        if end == len(self._text) and not self._ended:  # a number might go on
            return None
        offset = self._offset
        self._pass(end)
        return offset, self._offset - offset, value

    def _finish(self) -> None:
        """What stands behind the list of records must end the object around it."""
        last = self._text[self._place :].rstrip()[-1:]
        while not self._ended:
            self._text, self._place = "", 0
            self._more(CHUNK)
            last = self._text.rstrip()[-1:] or last
        if last != "}":
            raise self._damaged(ValueError("the object around the list is cut off"))

    def _pass(self, end: int) -> None:
        self._offset += len(self._text[self._place : end].encode())
        self._place = end

    def _more(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        try:
            self._text, self._place = self._text[self._place :] + self._decode(data, final=self._ended), 0
        except UnicodeDecodeError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: ValueError) -> UserError:
        return UserError(
            f"{self._path}: data.sources.annotations: no JSON list and no JSON Lines from byte {self._offset} on: "
            f"{one_line(error)}"
        )


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    return found if len(found) == len(pairs) else BadSample("a key stands twice", shown(_twice(pairs)))


def _twice(pairs: list[tuple[str, Any]]) -> str:
    names = [name for name, _ in pairs]
    return next(name for name in names if names.count(name) > 1)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
"""`NaN` and infinities, as Python and pandas write them into fields that nobody reads, may stand."""


@lru_cache
def _descriptor(path: str, changed: int) -> int:
    """Of the file that was changed last at that time; forked workers share it, since `pread` moves nothing."""
    return os.open(path, os.O_RDONLY)
