"""Codes as words: one contiguous block of visual ids behind the text vocabulary.

    [ text ids 0 .. offset - 1 ][ begin_image ][ end_image ][ code 0 ][ code 1 ] ... [ code K - 1 ]

What is notable here: the offset is `len(text_tokenizer)` and not the width of the embedding, which Qwen pads; every
visual id has a name in the text tokenizer, and the embedding has a row for each name and none besides. The block is
written into the model's config.json together with the hash of the VQRAE whose codes it means, so that a generator is
never read with another tokenizer's decoder. Text rows are bit-equal after the expansion.

Legend: K codes, E code width, V embedding rows, d width of the language model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError, refusing
from common.models.vision_encoder import Grid
from common.models.vqrae import VQRAE
from generation.config import MARKS, NewEmbeddings

BEGIN_IMAGE = "<|begin_image|>"
END_IMAGE = "<|end_image|>"
CONFIG_KEY = "visual_vocabulary"


@dataclass(frozen=True)
class VisualVocabulary:
    """Which ids are visual, and what they mean.

    Args:
        offset: the first visual id, the length of the text tokenizer before the expansion.
        codebook_size: K.
        grid: (h, w) tokens of the pictures that the generator writes.
        image_size: their side in pixels.
        max_length: tokens of the longest training sequence, text and both marks included.
        vqrae_sha256: `state_sha256` of the tokenizer's weights: encoder, quantizer and decoder.
    """

    offset: int
    codebook_size: int
    grid: Grid
    image_size: int
    max_length: int
    vqrae_sha256: str

    def __post_init__(self) -> None:
        if self.offset < 1 or self.codebook_size < 1 or min(self.grid) < 1:
            raise ValueError(
                f"offset, codebook_size, grid: expected 1 or more, found {self.offset}, {self.codebook_size}, "
                f"{self.grid}"
            )
        if self.text_room < 1:
            raise ValueError(
                f"max_length: {self.max_length} leaves no room for text beside {self.image_tokens} image tokens "
                f"and {MARKS} marks"
            )

    @property
    def begin_image(self) -> int:
        """The id after which the codes follow."""
        return self.offset

    @property
    def end_image(self) -> int:
        """The id behind the last code; appended, never predicted."""
        return self.offset + 1

    @property
    def first_code(self) -> int:
        """The id of code 0."""
        return self.offset + MARKS

    @property
    def size(self) -> int:
        """Visual ids: K codes and two marks."""
        return self.codebook_size + MARKS

    @property
    def rows(self) -> int:
        """V: text and visual ids, which is also the length of the expanded text tokenizer."""
        return self.offset + self.size

    @property
    def code_slice(self) -> slice:
        """The rows of embedding and head that belong to codes."""
        return slice(self.first_code, self.rows)

    @property
    def image_tokens(self) -> int:
        """N: codes of one picture."""
        return self.grid[0] * self.grid[1]

    @property
    def text_room(self) -> int:
        """Text tokens that fit beside one picture."""
        return self.max_length - self.image_tokens - MARKS

    def codes_to_ids(self, codes: Tensor) -> Tensor:
        """Codes (...) in [0, K), any integer type -> ids (...) int64.

        Raises:
            ValueError: a code out of range.
        """
        codes = codes.long()
        _check_range(codes, 0, self.codebook_size, "codes")
        return codes + self.first_code

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        """Ids of codes (...) -> codes (...) int64.

        Raises:
            ValueError: an id that is no code (text, or one of the two marks).
        """
        ids = ids.long()
        _check_range(ids, self.first_code, self.rows, "ids")
        return ids - self.first_code

    def names(self) -> list[str]:
        """The tokens' names, in the order of their ids."""
        return [BEGIN_IMAGE, END_IMAGE, *(f"<|code_{code}|>" for code in range(self.codebook_size))]

    def check_vqrae(self, found: str, where: str) -> None:
        """Raises `UserError` unless `found`, the hash that stands at `where`, is that of this vocabulary's VQRAE."""
        if found != self.vqrae_sha256:
            raise UserError(
                f"{where}: belongs to another VQRAE (sha256 {found[:12]}..., the generator's is "
                f"{self.vqrae_sha256[:12]}...)"
            )

    def to_config(self) -> dict[str, Any]:
        """Plain data, for config.json."""
        return {**dataclasses.asdict(self), "grid": list(self.grid)}

    @classmethod
    def of(cls, config: Any, where: str) -> VisualVocabulary:
        """The vocabulary that a generator's config holds; `where` names its folder in errors.

        Raises:
            UserError: it has none (a language model that does not write pictures), or a damaged one.
        """
        fields = getattr(config, CONFIG_KEY, None)
        if fields is None:
            raise UserError(f"{where}: config.json: no {CONFIG_KEY}: this model does not write pictures")
        with refusing(f"{where}: config.json: {CONFIG_KEY}", TypeError, KeyError, ValueError):
            vocabulary = cls(**{**fields, "grid": tuple(fields["grid"])})
        if config.vocab_size != vocabulary.rows:
            raise UserError(
                f"{where}: config.json: vocab_size: expected {vocabulary.rows} by {CONFIG_KEY}, found "
                f"{config.vocab_size}"
            )
        return vocabulary


def _check_range(values: Tensor, first: int, end: int, what: str) -> None:
    if values.numel():
        lowest, highest = (int(bound) for bound in torch.aminmax(values))
        if lowest < first or highest >= end:
            raise ValueError(f"{what}: expected {first} to {end - 1}, found {lowest} to {highest}")


@torch.no_grad()
def expand(
    model: Any, text_tokenizer: Any, vqrae: VQRAE, vocabulary: VisualVocabulary, start: NewEmbeddings
) -> None:
    """Give a causal language model and its text tokenizer the visual ids, in place.

    Args:
        model: any `...ForCausalLM`, head tied or not.
        start: where the new rows come from. `mean`: the mean of the text rows, so that all codes are equally likely
            at first. `codebook`: the VQRAE's code vectors, carried into the model's width (see `carried`). `normal`:
            the model's own initialisation, which suits one that starts from scratch.

    Raises:
        UserError: the text tokenizer has another length than `vocabulary.offset`, or rows are missing for it.
    """
    table = model.get_input_embeddings().weight
    if len(text_tokenizer) != vocabulary.offset or len(table) < vocabulary.offset:
        raise UserError(
            f"the text tokenizer has {len(text_tokenizer)} tokens and the model {len(table)} rows; expected "
            f"{vocabulary.offset} tokens and at least as many rows"
        )
    from transformers import AddedToken

    # Special: text that spells such a name stays text (see `prompt`), and decoded text leaves them out.
    text_tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in vocabulary.names()], special_tokens=True
    )
    if len(text_tokenizer) != vocabulary.rows:
        raise UserError("the text tokenizer has tokens named like visual ones; it was expanded before")
    model.resize_token_embeddings(vocabulary.rows, mean_resizing=False)
    codes = vqrae.quantizer.lookup(torch.arange(vocabulary.codebook_size, device=vqrae.device))
    layers = {
        id(layer.weight): layer for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for layer in layers.values():  # one if the head is tied, else two
        _start_rows(layer, vocabulary, codes, start, model.config.initializer_range)
    setattr(model.config, CONFIG_KEY, vocabulary.to_config())


def _start_rows(
    layer: nn.Module, vocabulary: VisualVocabulary, codes: Tensor, start: NewEmbeddings, std: float
) -> None:
    rows: Tensor = layer.weight  # type: ignore[assignment]
    text, new = rows[: vocabulary.offset].float(), rows[vocabulary.offset :]
    if start == "normal":
        new.normal_(std=std)
        return
    new.copy_(text.mean(0).expand_as(new))
    if start == "codebook":
        rows[vocabulary.code_slice] = (text.mean(0) + carried(codes, rows.shape[1], text.std())).to(rows)


def carried(codes: Tensor, width: int, std: Tensor | float) -> Tensor:
    """Code vectors (K, E) in another width: (K, d), of mean 0 and overall standard deviation `std`.

    Centred, projected on their main directions (all of them if d >= E, so that distances stay in proportion), and
    turned by a fixed random rotation, so that no coordinate of the language model is favoured.
    """
    centred = (codes - codes.mean(0)).double().cpu()
    kept = min(codes.shape[1], width)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # in ascending order of their variance
    rotation = torch.empty(kept, width, dtype=torch.float64)
    nn.init.orthogonal_(rotation, generator=torch.Generator().manual_seed(0))
    moved = centred @ directions[:, -kept:] @ rotation
    return (moved * (float(std) / moved.std().clamp_min(1e-12))).float().to(codes.device)
