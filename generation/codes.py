"""Extracted codes on disk: written once, read in any order, and never with another tokenizer.

    CODES/codes.json                    what all shards have in common: `CodeFacts`, and how many there should be
    CODES/shard_00000.safetensors       codes (n, h, w) uint16, captions, keys, and what was left out

What is notable here: a shard is one plain safetensors file that holds its captions too and repeats the facts in its
header, so that it can be moved and read alone; it exists whole or not at all; reading is memory-mapped, one sample of
1024 codes is 2 KB.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.data.strings import StringTable
from common.errors import UserError, refusing
from common.files import whole_file

MANIFEST = "codes.json"
FORMAT = 1


@dataclass(frozen=True)
class CodeFacts:
    """What codes mean, and what they were made from.

    Args:
        vqrae_sha256, codebook_size: the tokenizer.
        grid: (h, w) of a picture's codes. image_size, crop: the pixels they stand for. precision: of the encoder.
        source: the pictures, as the recipe names them.
        images: pictures in the source. shard_size: of them for each shard.
    """

    vqrae_sha256: str
    codebook_size: int
    grid: tuple[int, int]
    image_size: int
    crop: str
    precision: str
    source: dict[str, Any]
    images: int
    shard_size: int

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_size)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path) -> CodeFacts:
        """Raises `UserError` if `text`, found at `where`, is something else."""
        with refusing(f"{where}: no extracted codes, or of another version"):
            fields = json.loads(text)
            if fields.pop("format") != FORMAT:
                raise ValueError(f"format: expected {FORMAT}")
            return cls(**{**fields, "grid": tuple(fields["grid"])})

    def check(self, expected: CodeFacts, where: Path, *fields: str) -> None:
        """Raises `UserError` naming the first of `fields` (default all) in which these facts, found at `where`, are
        not the expected ones."""
        for name in fields or [field.name for field in dataclasses.fields(self)]:
            mine, theirs = getattr(self, name), getattr(expected, name)
            if mine != theirs:
                what = "they were made by another VQRAE; " if name == "vqrae_sha256" else ""
                raise UserError(
                    f"{where}: {name}: {what}the codes there have {_short(mine)}, the recipe {_short(theirs)}"
                )


def read_facts(folder: Path) -> CodeFacts:
    """Raises `UserError` if no codes were extracted into `folder`."""
    path = folder / MANIFEST
    try:
        return CodeFacts.from_json(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise UserError(
            f"{path}: no extracted codes there ({error.strerror}); run generation/extract_codes.py with this recipe"
        ) from error


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:05d}.safetensors"


def write_shard(
    path: Path,
    facts: CodeFacts,
    codes: Sequence[np.ndarray],
    captions: Sequence[str | None],
    keys: Sequence[str],
    skipped: Sequence[str],
) -> None:
    """Write one shard, whole or not at all.

    Args:
        codes: (h, w) each, in [0, K).
        skipped: `key: reason` of the pictures that could not be read.

    Raises:
        ValueError: codes out of range or of another grid. UserError: it cannot be written.
    """
    packed = np.stack(codes) if len(codes) else np.zeros((0, *facts.grid), dtype=np.int64)
    _check_codes(packed, facts, str(path))
    arrays = {"codes": packed.astype("<u2")}
    texts = {"captions": [caption or "" for caption in captions], "keys": keys, "skipped": skipped}
    for name, strings in texts.items():
        table = StringTable(strings)
        arrays[name], arrays[f"{name}_ends"] = table.content, table.ends
    with whole_file(path) as partial:
        save_file(arrays, partial, metadata={"facts": facts.to_json()})


@dataclass(frozen=True)
class CodeSample:
    """codes (h, w) int64 in [0, K); no caption is None."""

    codes: np.ndarray
    caption: str | None
    key: str


class CodeFolder:
    """All samples of one folder, by index.

    Raises:
        UserError: nothing there, shards are missing or damaged, or of other facts than the folder's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.facts = read_facts(self.folder)
        paths = [shard_path(self.folder, number) for number in range(self.facts.shards)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UserError(
                f"{missing[0]}: absent, one of {len(missing)} of {len(paths)} shards; go on with "
                "generation/extract_codes.py"
            )
        counts = []
        for path in paths:
            shard = open_shard(path)
            shard.facts.check(self.facts, path)
            counts.append(len(shard))
        self._ends = np.cumsum([0, *counts])
        self._paths = StringTable(str(path) for path in paths)
        if not len(self):
            raise UserError(f"{self.folder}: none of its {self.facts.images} pictures could be read")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> CodeSample:
        """Raises:
        UserError: a code is out of range; names the shard.
        """
        number = int(np.searchsorted(self._ends, index, side="right")) - 1
        return open_shard(Path(self._paths[number])).read(index - int(self._ends[number]))


class Shard:
    """One memory-mapped shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        damaged = f"{path}: no shard of codes, or a damaged one"
        with refusing(damaged, OSError, SafetensorError, KeyError, ValueError):
            self._file = safe_open(path, framework="numpy")
            self.facts = CodeFacts.from_json((self._file.metadata() or {})["facts"], path)
            self._codes = self._file.get_slice("codes")
            self._length = int(self._codes.get_shape()[0])
            self._captions, self._keys, self.skipped = (
                StringTable.of(self._file.get_slice(name), self._file.get_tensor(f"{name}_ends"))
                for name in ("captions", "keys", "skipped")
            )

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> CodeSample:
        codes = self._codes[index : index + 1][0].astype(np.int64)
        try:
            _check_codes(codes, self.facts, f"{self.path}: sample {index}")
        except ValueError as error:
            raise UserError(str(error)) from error
        return CodeSample(codes=codes, caption=self._captions[index] or None, key=self._keys[index])


@lru_cache(maxsize=512)  # open at once; a shard is opened in a fraction of a millisecond
def open_shard(path: Path) -> Shard:
    return Shard(path)


def _check_codes(codes: np.ndarray, facts: CodeFacts, where: str) -> None:
    if codes.shape[-2:] != facts.grid:
        raise ValueError(f"{where}: codes: expected a grid of {facts.grid}, found {codes.shape[-2:]}")
    if codes.size and not 0 <= codes.min() <= codes.max() < facts.codebook_size:
        raise ValueError(
            f"{where}: codes: expected 0 to {facts.codebook_size - 1}, found {codes.min()} to {codes.max()}"
        )


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, tuple)) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
