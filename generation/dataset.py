"""From captions and codes to what the language model reads.

    text tokens, begin_image, code 0 .. code N - 1, end_image          at most `max_length`

What is notable here: nothing is predicted from the last code and from end_image, so they are left out of what is
computed; rows are padded on the right, behind everything that is learned from, so that attention needs no mask. Which
sample stands at a position, and whether its caption is dropped, follows from (seed, position) alone.

Legend: B sequences, L their padded length, N codes of a picture, M = B N.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from common.data.mixture import Mixture
from common.data.order import dealt, derive_key
from common.data.stream import training_loader
from common.data.workers import in_workers
from common.errors import UserError
from generation.code_encoder import CodeEncoder
from generation.codes.library import CodeSource
from generation.codes.shard import CodeSample
from generation.config import GenerationDataConfig
from generation.prompt import prompt_ids
from generation.vocabulary import VisualVocabulary


class Batch(TypedDict):
    """One micro-batch of one rank."""

    input_ids: Tensor  # int64 (B, L)
    predictors: Tensor  # int64 (M,): flat positions in B L whose hidden states predict ...
    targets: Tensor  # int64 (M,): ... these codes, in [0, K)
    prompt_lengths: list[int]  # tokens before each picture's codes, begin_image included
    skipped: list[str]  # `SOURCE/KEY: reason` of pictures that could not be read
    samples: int
    keys: list[str]  # of the pictures in it, as far as they are known


def sequence(prompt: list[int], codes: Tensor, vocabulary: VisualVocabulary) -> list[int]:
    """A whole sequence: what `prompt_ids` gave, the ids of codes (h, w) in raster order, end_image.

    Raises:
        ValueError: codes out of range, or of another number than N.
    """
    if codes.numel() != vocabulary.image_tokens:
        raise ValueError(f"codes: expected {vocabulary.image_tokens} of a picture, found {codes.numel()}")
    return [*prompt, *vocabulary.codes_to_ids(codes.flatten()).tolist(), vocabulary.end_image]


class SequenceBuilder:
    """Captions and codes -> `Batch`.

    Args:
        text_tokenizer: the expanded one.
        dropout: share of captions left out.
    """

    def __init__(
        self, text_tokenizer: Any, vocabulary: VisualVocabulary, dropout: float = 0.0, seed: int = 0
    ) -> None:
        self.text_tokenizer, self.vocabulary = text_tokenizer, vocabulary
        self.dropout, self.seed = dropout, seed

    def prompt(self, caption: str | None, position: int | None) -> list[int]:
        """The ids before the first code; a caption beyond the room is cut. `position` None drops nothing."""
        dropped = position is not None and prompt_is_dropped(self.seed, position, self.dropout)
        text = None if dropped else caption
        return prompt_ids(self.text_tokenizer, text, room=self.vocabulary.text_room, truncate=True)

    def __call__(
        self,
        codes: Tensor,
        captions: list[str | None],
        positions: list[int] | None,
        skipped: list[str] | None = None,
    ) -> Batch:
        """Codes (B, h, w), with B >= 1; `positions` in the training stream, None for a held-out set."""
        places: list[int] | list[None] = positions or [None] * len(captions)
        prompts = [self.prompt(*pair) for pair in zip(captions, places, strict=True)]
        rows = [
            sequence(prompt, picture, self.vocabulary)
            for prompt, picture in zip(prompts, codes.cpu(), strict=True)
        ]
        tokens, longest = self.vocabulary.image_tokens, max(map(len, rows)) - 2
        input_ids = torch.full((len(rows), longest), self.vocabulary.end_image)
        for place, row in enumerate(rows):
            input_ids[place, : len(row) - 2] = torch.tensor(row[:-2])
        first = torch.tensor([place * longest + len(prompt) - 1 for place, prompt in enumerate(prompts)])
        return {
            "input_ids": input_ids,
            "predictors": (first[:, None] + torch.arange(tokens)).flatten(),
            "targets": codes.flatten().long().cpu(),
            "prompt_lengths": [len(prompt) for prompt in prompts],
            "skipped": skipped or [],
            "samples": len(rows),
            "keys": [],
        }


def prompt_is_dropped(seed: int, position: int, share: float) -> bool:
    """Whether the caption at a position of the training stream is left out."""
    return derive_key(seed, "prompt", position) < share * 2**64


def training_batches(
    config: GenerationDataConfig,
    builder: SequenceBuilder,
    encoder: CodeEncoder,
    seed: int,
    rank: int,
    world: int,
    micro_size: int,
    start: int,
) -> Iterator[Batch]:
    """Endless micro-batches of rank `rank`, from global position `start` on: of extracted codes if the recipe names
    them, else encoded here.

    Raises:
        UserError: a source or its codes cannot be opened, or the codes are those of other pictures or another VQRAE.
    """

    positions = partial(dealt, size=micro_size, rank=rank, world=world, start=start)
    if config.codes is not None:
        stream = CodeStream(config, seed, builder)
        plan = lambda: map(positions, count())  # noqa: E731
        yield from in_workers(stream.batch, plan, config.workers, config.prefetch)
    else:
        loader = training_loader(config, seed, rank, world, micro_size, start)
        for step, batch in enumerate(loader):
            built = builder(encoder(batch["pixels"]), batch["caption"], positions(step), batch["skipped"])
            yield {**built, "keys": batch["key"]}


class CodeStream:
    """The endless training stream of extracted codes, indexed by global position: the mixture of sources that the
    recipe names, each in its own shuffled order, a few shards at a time."""

    def __init__(self, config: GenerationDataConfig, seed: int, builder: SequenceBuilder) -> None:
        assert config.codes is not None
        self.builder = builder
        self._sources = [CodeSource.of(Path(config.codes), source) for source in config.sources]
        self._mixture = Mixture([source.weight for source in config.sources], config.lanes, seed)
        for source in self._sources:
            check_codes(source, config, builder.vocabulary)

    def sample(self, position: int) -> CodeSample:
        """Raises `UserError` for a damaged shard."""
        number, local, seed = self._mixture[position]
        return self._sources[number].sample(local, seed)

    def batch(self, positions: list[int]) -> Batch:
        samples = [self.sample(position) for position in positions]
        codes = torch.stack([torch.from_numpy(sample.codes) for sample in samples])
        built = self.builder(codes, [sample.caption for sample in samples], positions)
        return {**built, "keys": [sample.key for sample in samples]}


def check_codes(source: CodeSource, config: GenerationDataConfig, vocabulary: VisualVocabulary) -> None:
    """Raises:
    UserError: the codes are those of another VQRAE, of other crops or of another resolution.
    """
    facts, where = source.facts, source.root
    vocabulary.check_vqrae(facts.vqrae_sha256, str(where))
    pairs = {
        "codebook_size": (vocabulary.codebook_size, facts.codebook_size),
        "grid": (vocabulary.grid, facts.grid),
        "image_size": (config.image_size, facts.image_size),
        "crop": (config.crop, facts.crop),
    }
    for field, (expected, found) in pairs.items():
        if expected != found:
            raise UserError(f"{where}: {field}: the recipe says {expected}, the codes there have {found}")
