"""Conversations and their images: the samples that understanding trains on.

Which samples take part follows from their records alone. Images are opened when their sample is read; one that cannot
be is left out then, and listed.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common import dist
from common.data.sources import Account
from common.errors import UserError
from understanding.config import ConversationSource, UnderstandingConfig
from understanding.conversation import BadSample, Conversation, Encoded, encode, last_net, read_conversation
from understanding.record_index import RecordIndex
from understanding.records.open import fields_of, open_records
from understanding.skipped import SkippedList, located, open_listed

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerFast

NAMED = 200  # characters of an id


@dataclass(frozen=True)
class Sample:
    """What is trained on: token ids, int64 (N,); which are learned, bool (N,); images, float32 (I, 3, S, S)."""

    ids: np.ndarray
    learned: np.ndarray
    pixel_values: Tensor


def open_conversations(
    config: UnderstandingConfig,
    sources: Sequence[ConversationSource],
    text_tokenizer: PreTrainedTokenizerFast,
    to_pixels: Callable[[Image], Tensor],
    limit: int | None = None,
) -> ConversationDataset:
    """Conversations as a recipe lays them out; see `ConversationDataset`."""
    return ConversationDataset(
        sources,
        text_tokenizer,
        to_pixels,
        image_tokens=config.model.image_tokens,
        image_size=int(config.model.tower.architecture["image_size"]),
        max_length=config.data.max_length,
        limit=limit,
    )


class ConversationDataset:
    """All sources behind each other, indexed by sample.

    Its indices are built by one process per node, so every rank constructs it, at the same time.

    Attributes:
        lengths: int32, tokens of each sample, 0 where it is unusable. images: int32, how many it has.
        learned: int32, how many of its tokens are learned. usable: bool.
        pad_id: of the text tokenizer.

    Raises:
        UserError: annotations are absent, damaged or empty, hold another number of records than stated, or none of
            them can be trained on.
    """

    def __init__(
        self,
        sources: Sequence[ConversationSource],
        text_tokenizer: PreTrainedTokenizerFast,
        to_pixels: Callable[[Image], Tensor],
        *,
        image_tokens: int,
        image_size: int,
        max_length: int,
        limit: int | None = None,
    ) -> None:
        """
        Args:
            text_tokenizer: made ready by `prepare_text_tokenizer`.
            to_pixels: RGB image -> normalised float32 (3, S, S), as the model's processor does it.
            image_tokens: tokens of one image. image_size: S, in pixels. max_length: tokens of a sample.
            limit: only so many samples of each source, from the front.
        """
        if image_tokens >= max_length:
            raise UserError(
                f"data.max_length: {max_length} leaves no room for text beside the {image_tokens} tokens of one image"
            )
        self.sources = tuple(sources)
        self._encoding = (text_tokenizer, image_tokens, max_length)
        self._to_pixels, self._image_size = to_pixels, image_size
        self._indices = [
            RecordIndex(open_records(source), fields_of(source), *self._encoding) for source in sources
        ]
        self._rows = [rows[:limit] for rows in self._read_indices()]
        # The tokenizer has used its threads, which workers that are forked from now on do not have.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._ends = np.cumsum([len(rows) for rows in self._rows]).tolist()
        self.lengths = np.concatenate([rows["length"] for rows in self._rows])
        self.images = np.concatenate([rows["images"] for rows in self._rows])
        self.learned = np.concatenate([rows["learned"] for rows in self._rows])
        self.usable = self.learned > 0
        assert text_tokenizer.pad_token_id is not None
        self.pad_id = int(text_tokenizer.pad_token_id)
        if not self.usable.any():
            first = next(self.problems())[1]
            raise UserError(
                f"{sources[0].annotations}: data.sources.annotations: none of {len(self)} samples can be trained on; "
                f"the first: {first}"
            )

    def _read_indices(self) -> list[np.ndarray]:
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            for index in self._indices:
                index.rows()
        dist.barrier()
        tables = [index.rows() for index in self._indices]
        for source, rows in zip(self.sources, tables, strict=True):
            if source.samples is not None and source.samples != len(rows):
                raise UserError(
                    f"{source.annotations}: data.sources.samples: {source.samples} are stated, found {len(rows)}"
                )
        return tables

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def spans(self) -> list[tuple[int, int, float]]:
        """Of each source: its first sample, the one behind its last, and its weight."""
        starts = [0, *self._ends[:-1]]
        weights = [source.weight for source in self.sources]
        return list(zip(starts, self._ends, weights, strict=True))

    @property
    def no_pixels(self) -> Tensor:
        """The pixels of no image: float32 (0, 3, S, S)."""
        return torch.empty(0, 3, self._image_size, self._image_size)

    def with_images(self) -> list[int]:
        """The usable samples that have any."""
        return np.flatnonzero(self.usable & (self.images > 0)).tolist()

    def conversation(self, index: int) -> Conversation:
        """Raises:
        BadSample: it is none.
        """
        source, row = self._locate(index)
        with last_net():
            record = self._indices[source].record(self._rows[source][row])
            return read_conversation(record, self._indices[source].fields)

    def encode(self, index: int) -> Encoded:
        """Raises:
        BadSample: it cannot be trained on.
        """
        return encode(self.conversation(index), *self._encoding)

    def read(self, index: int) -> Sample:
        """Raises:
        BadSample: it cannot be trained on, or an image of it cannot be read.
        """
        conversation = self.conversation(index)
        encoded = encode(conversation, *self._encoding)
        with last_net():
            pixels = [self._to_pixels(open_listed(picture)) for picture in self.pictures(index, conversation)]
        return Sample(encoded.ids, encoded.learned, torch.stack(pixels) if pixels else self.no_pixels)

    def pictures(self, index: int, conversation: Conversation) -> list[Path | str | bytes]:
        """Those of a sample, as `open_listed` takes them: a file, a URL, or what is encoded in the record."""
        source = self.sources[self._locate(index)[0]]
        return [
            picture if isinstance(picture, bytes) else located(picture, source.images, source.annotations)
            for picture in conversation.images
        ]

    def name(self, index: int) -> str:
        """`SOURCE: ID`; a record without an id is named by its place."""
        source, row = self._locate(index)
        key = None
        with suppress(BadSample), last_net():
            record = self._indices[source].record(self._rows[source][row])
            key = record.get("id") if isinstance(record, dict) else None
        return f"{self.sources[source].annotations}: {f'record {row}' if key is None else str(key)[:NAMED]}"

    def describe(self, index: int, problem: BadSample) -> str:
        """`SOURCE: ID: reason`, on one line that can be written down."""
        said = " ".join(f"{self.name(index)}: {problem}".split())
        return said.encode("utf-8", "backslashreplace").decode()

    def accounts(self) -> list[tuple[str, Account]]:
        """Each source by name: the samples that can be trained on, and what becomes of the others."""
        told = []
        for source, index, rows in zip(self.sources, self._indices, self._rows, strict=True):
            usable = int((rows["learned"] > 0).sum())
            told.append(
                (source.annotations, Account(usable, None, index.counts().left_out(len(rows) - usable)))
            )
        return told

    def problems(self) -> Iterator[tuple[int, BadSample]]:
        """The samples that are unusable by their annotations, and why; found out anew, since they are few."""
        for index in np.flatnonzero(~self.usable).tolist():
            try:
                self.encode(index)
            except BadSample as problem:
                yield index, problem

    def list_unusable(self, skipped: SkippedList, max_share: float) -> None:
        """Write the samples that no batch will hold into a run's list (rank 0).

        Raises:
            UserError: they are more than `max_share` of all; or the list cannot be written.
        """
        if dist.is_main():
            skipped.add(self.describe(index, problem) for index, problem in self.problems())
        number = len(self) - int(self.usable.sum())
        if number > max_share * len(self):
            index, problem = next(self.problems())
            raise UserError(
                f"{number} of {len(self)} samples cannot be trained on, more than data.max_skipped_share allows "
                f"({max_share}); the first: {self.describe(index, problem)}"
            )

    def _locate(self, index: int) -> tuple[int, int]:
        """The source of a sample, and its row there."""
        source = bisect_right(self._ends, index)
        return source, index - (self._ends[source - 1] if source else 0)
