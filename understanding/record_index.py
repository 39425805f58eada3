"""Records of one source, read at random: once they are indexed, nothing of them stays in memory.

The index is one small array on disk, memory-mapped: where each record lies, and what encoding it gave. It follows from
the records and from how conversations are encoded, and from nothing else; so images may be repaired or added without a
new one. Beside it stands what was counted on the way.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.files import cache_file, whole_cache
from understanding.conversation import (
    BadSample,
    Conversation,
    Encoded,
    encode_all,
    last_net,
    read_conversation,
)
from understanding.layouts import Fields
from understanding.records.source import Found, Records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 3  # of what the index holds; another one is built anew
ROW = np.dtype([("place", "<i8"), ("size", "<i8"), ("length", "<i4"), ("learned", "<i4"), ("images", "<i4")])
TOGETHER = 1024  # records encoded at a time
KEPT = 64  # fields that are counted by name


@dataclass
class Counts:
    """What was counted over all records.

    Args:
        unread: fields that hold something and are not read -> in how many records.
        unmentioned: records whose pictures no message mentions; they stand before the first question.
    """

    unread: dict[str, int] = field(default_factory=dict)
    unmentioned: int = 0

    def left_out(self, unusable: int) -> dict[str, int]:
        """What becomes of records, in words -> of how many."""
        told = {
            "that cannot be trained on": unusable,
            "whose pictures no message mentions: they come first": self.unmentioned,
        }
        told |= {f"with a field `{name}`, which is not read": count for name, count in self.unread.items()}
        return {what: count for what, count in told.items() if count}


class RecordIndex:
    """An index that is not there yet is built, which takes minutes for 665K records.

    Args:
        text_tokenizer: made ready for conversations. image_tokens, max_length: as in `encode`.
        fields: that records are read by.
    """

    def __init__(
        self,
        records: Records,
        fields: Fields,
        text_tokenizer: PreTrainedTokenizerFast,
        image_tokens: int,
        max_length: int,
    ) -> None:
        self.records, self.fields = records, fields
        self._encoding = (text_tokenizer, image_tokens, max_length)
        key = (
            VERSION,
            *records.fingerprint(),
            fields,
            _fingerprint(text_tokenizer),
            image_tokens,
            max_length,
        )
        self._cache = cache_file("conversations", *key, suffix=".npy")
        self._counts = cache_file("conversations", *key, suffix=".json")

    def rows(self) -> np.ndarray:
        """The index, one `ROW` per record; `length` and `learned` are 0 where there is nothing to train on."""
        if not (self._cache.exists() and self._counts.exists()):
            self._build()
        return np.load(self._cache, mmap_mode="r")

    def counts(self) -> Counts:
        with suppress(OSError, ValueError, TypeError):
            return Counts(**json.loads(self._counts.read_bytes()))
        self._build()
        return Counts(**json.loads(self._counts.read_bytes()))

    def record(self, row: np.void) -> Any:
        """The record with its pictures; raises what `Records.read` does."""
        return self.records.read(int(row["place"]), int(row["size"]))

    def _build(self) -> None:
        from tqdm import tqdm

        rows: list[np.ndarray] = []
        waiting: list[Found] = []
        unread: Counter[str] = Counter()
        counts = Counts()
        scale = self.records.unit == "B"
        with tqdm(
            total=self.records.total,
            unit=self.records.unit,
            unit_scale=scale,
            desc=f"index {self.records.name}",
            disable=None,
        ) as bar:
            for found in self.records.scan():
                waiting.append(found)
                if len(waiting) == TOGETHER:
                    rows.append(self._rows_of(waiting, unread, counts))
                    bar.update(found.place + found.size - bar.n if scale else TOGETHER)
                    waiting = []
            rows.append(self._rows_of(waiting, unread, counts))
        table = np.concatenate(rows)
        if not len(table):
            raise UserError(f"{self.records.name}: data.sources.annotations: holds no records")
        counts.unread = dict(unread.most_common(KEPT))
        with whole_cache(self._counts) as file:
            file.write(json.dumps(asdict(counts)).encode())
        with whole_cache(self._cache) as file:
            np.save(file, table)

    def _rows_of(self, records: list[Found], unread: Counter[str], counts: Counts) -> np.ndarray:
        rows = np.zeros(len(records), ROW)
        good: list[tuple[int, Conversation]] = []
        for number, (place, size, record) in enumerate(records):
            rows[number]["place"], rows[number]["size"] = place, size
            with suppress(BadSample), last_net():
                conversation = read_conversation(record, self.fields)
                unread.update(conversation.unread)
                good.append((number, conversation))
        results = encode_all([conversation for _, conversation in good], *self._encoding)
        for (number, conversation), result in zip(good, results, strict=True):
            rows[number]["images"] = len(conversation.images)
            if isinstance(result, Encoded):
                counts.unmentioned += conversation.unmentioned
                rows[number]["length"] = len(result.ids)
                rows[number]["learned"] = np.count_nonzero(result.learned)
        return rows


def _fingerprint(text_tokenizer: PreTrainedTokenizerFast) -> str:
    """Of all that decides which ids a conversation becomes."""
    backend = text_tokenizer.backend_tokenizer
    backend.no_padding()  # left behind by former calls
    backend.no_truncation()
    parts = backend.to_str(), text_tokenizer.chat_template, sorted(text_tokenizer.special_tokens_map.items())
    return sha256(repr(parts).encode()).hexdigest()
