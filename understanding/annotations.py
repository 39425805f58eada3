"""A LLaVA file, read at random: once it is indexed, nothing of it stays in memory.

The index is one small array on disk, memory-mapped: where each record lies in the file, and what encoding it gave. It
follows from the file and from how conversations are encoded, and from nothing else; so images may be repaired or
added without a new one.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError, one_line, refusing
from common.files import cache_file, whole_cache
from understanding.conversation import BadSample, Conversation, Encoded, encode_all, read_conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 2  # of what the index holds; another one is built anew
ROW = np.dtype([("offset", "<i8"), ("size", "<i4"), ("length", "<i4"), ("learned", "<i4"), ("images", "<i4")])
CHUNK = 1 << 22  # bytes read at a time
TOGETHER = 1024  # records encoded at a time
_BETWEEN = re.compile(r"[\s,\[\]]*")  # what stands between records, in a list as in JSON Lines


class Annotations:
    """The records of one file. An index that is not there yet is built, which takes minutes for 665K records.

    Args:
        text_tokenizer: made ready for conversations. image_tokens, max_length: as in `encode`.

    Raises:
        UserError: the file is absent, damaged or empty, or the cache cannot be written.
    """

    def __init__(
        self, path: str, text_tokenizer: PreTrainedTokenizerFast, image_tokens: int, max_length: int
    ) -> None:
        self.path = path
        self._encoding = (text_tokenizer, image_tokens, max_length)
        with refusing(f"{path}: data.sources.annotations", OSError):
            status = Path(path).stat()
        self._changed = status.st_mtime_ns
        self._cache = cache_file(
            "conversations",
            VERSION,
            str(Path(path).resolve()),
            status.st_size,
            self._changed,
            _fingerprint(text_tokenizer),
            image_tokens,
            max_length,
            suffix=".npy",
        )

    @property
    def indexed(self) -> bool:
        return self._cache.exists()

    def rows(self) -> np.ndarray:
        """The index, one `ROW` per record; `length` and `learned` are 0 where there is nothing to train on."""
        if not self.indexed:
            self._build()
        return np.load(self._cache, mmap_mode="r")

    def record(self, row: np.void) -> Any:
        """The record as it stands in the file.

        Raises:
            UserError: the file was changed since it was indexed.
        """
        text = os.pread(_descriptor(self.path, self._changed), int(row["size"]), int(row["offset"]))
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.path}: was changed while it is in use") from error

    def _build(self) -> None:
        from tqdm import tqdm

        rows: list[np.ndarray] = []
        waiting: list[tuple[int, int, Any]] = []
        total = Path(self.path).stat().st_size
        with tqdm(total=total, unit="B", unit_scale=True, desc=f"index {self.path}", disable=None) as bar:
            for record in read_records(self.path):
                waiting.append(record)
                if len(waiting) == TOGETHER:
                    rows.append(self._rows_of(waiting))
                    bar.update(record[0] + record[1] - bar.n)
                    waiting = []
            rows.append(self._rows_of(waiting))
        table = np.concatenate(rows)
        if not len(table):
            raise UserError(f"{self.path}: data.sources.annotations: holds no records")
        with whole_cache(self._cache) as file:
            np.save(file, table)

    def _rows_of(self, records: list[tuple[int, int, Any]]) -> np.ndarray:
        rows = np.zeros(len(records), ROW)
        good: list[tuple[int, Conversation]] = []
        for number, (offset, size, record) in enumerate(records):
            rows[number]["offset"], rows[number]["size"] = offset, size
            try:
                good.append((number, read_conversation(record)))
            except BadSample:
                continue
        results = encode_all([conversation for _, conversation in good], *self._encoding)
        for (number, conversation), result in zip(good, results, strict=True):
            rows[number]["images"] = len(conversation.images)
            if isinstance(result, Encoded):
                rows[number]["length"] = len(result.ids)
                rows[number]["learned"] = np.count_nonzero(result.learned)
        return rows


def read_records(path: str) -> Iterator[tuple[int, int, Any]]:
    """Offset and size in bytes, and the value, of each record of a JSON list or of JSON Lines.

    A published file is one list of a gigabyte, whose objects would take five; here one record is held at a time.

    Raises:
        UserError: not UTF-8, no JSON, or cut off; names the byte.
    """
    decode_json = json.JSONDecoder().raw_decode
    decode_text = codecs.getincrementaldecoder("utf-8")()
    with Path(path).open("rb") as file:
        text, place = "", 0  # what is decoded, and how far it is used
        offset = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0  # of `place`, in bytes
        file.seek(offset)
        wanted, ended = CHUNK, False
        opened = closed = False  # the brackets of a list
        while True:
            between = _BETWEEN.match(text, place)
            assert between is not None
            place, offset = between.end(), offset + len(between[0].encode())
            opened, closed = opened or "[" in between[0], closed or "]" in between[0]
            if place < len(text):
                try:
                    value, end = decode_json(text, place)
                except ValueError as error:
                    if ended:
                        raise _damaged(path, offset, error) from error
                else:
                    if end < len(text) or ended:  # else a number might go on
                        size = len(text[place:end].encode())
                        yield offset, size, value
                        place, offset, wanted = end, offset + size, CHUNK
                        continue
            elif ended:
                break
            data = file.read(wanted)
            ended = not data
            wanted *= 2  # a record that is longer than a chunk is not decoded again and again
            try:
                text, place = text[place:] + decode_text.decode(data, final=ended), 0
            except UnicodeDecodeError as error:
                raise _damaged(path, offset, error) from error
        if opened and not closed:
            raise _damaged(path, offset, ValueError("the list is cut off"))


def _damaged(path: str, offset: int, error: ValueError) -> UserError:
    return UserError(
        f"{path}: data.sources.annotations: no JSON list and no JSON Lines from byte {offset} on: {one_line(error)}"
    )


@lru_cache
def _descriptor(path: str, changed: int) -> int:
    """Of the file that was changed last at that time; forked workers share it, since `pread` moves nothing."""
    return os.open(path, os.O_RDONLY)


def _fingerprint(text_tokenizer: PreTrainedTokenizerFast) -> str:
    """Of all that decides which ids a conversation becomes."""
    backend = text_tokenizer.backend_tokenizer
    backend.no_padding()  # left behind by former calls
    backend.no_truncation()
    parts = backend.to_str(), text_tokenizer.chat_template, sorted(text_tokenizer.special_tokens_map.items())
    return sha256(repr(parts).encode()).hexdigest()
