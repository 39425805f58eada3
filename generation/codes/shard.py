"""The files of one part of a source: its codes, and beside them its captions.

What is notable here: each is one plain safetensors file that tells in its header what it holds, and is there whole or
not at all. Reading is memory-mapped: a sample of 1024 codes is 2 KB, and of tables of strings only the ends of its own
string are looked at. Captions have a file of their own, so that mended ones cost no encoding.
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
from generation.codes.facts import FORMAT, CodeFacts


@dataclass(frozen=True)
class ShardOrigin:
    """Which pictures a shard was made from; see `record.Slice`.

    Args:
        name, fingerprint: of the part. first, count: its pictures from the first of the part on.
        probe: hash of the first and the last picture.
    """

    name: str
    fingerprint: str
    first: int
    count: int
    probe: str


def shard_path(root: Path, name: str) -> Path:
    return root / "shards" / f"{name}.safetensors"


def captions_path(root: Path, name: str) -> Path:
    return root / "captions" / f"{name}.safetensors"


def write_shard(
    path: Path,
    facts: CodeFacts,
    origin: ShardOrigin,
    codes: Sequence[np.ndarray],
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
    header = {**json.loads(facts.to_json()), **dataclasses.asdict(origin)}
    _save(path, header, {"codes": packed.astype("<u2")}, {"keys": keys, "skipped": skipped})


def write_captions(path: Path, shard: str, captions: Sequence[str | None]) -> None:
    """Write the captions of the shard of that name, one for each of its samples.

    Raises:
        UserError: it cannot be written.
    """
    header = {"format": FORMAT, "shard": shard, "captioned": sum(map(bool, captions))}
    _save(path, header, {}, {"captions": [caption or "" for caption in captions]})


def _save(
    path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], texts: dict[str, Sequence[str]]
) -> None:
    for name, strings in texts.items():
        table = StringTable(strings)
        arrays[name], arrays[f"{name}_ends"] = table.content, table.ends
    with whole_file(path) as partial:
        # One entry: the order of several is drawn anew in each process, and equal shards would differ in their bytes.
        save_file(arrays, partial, metadata={"header": json.dumps(header)})


@dataclass(frozen=True)
class CodeSample:
    """codes (h, w) int64 in [0, K); no caption is None."""

    codes: np.ndarray
    caption: str | None
    key: str


class _MappedFile:
    """A safetensors file of ours, mapped into memory."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        with refusing(f"{path}: {what}, or a damaged one", OSError, SafetensorError, KeyError, ValueError):
            self._file = safe_open(path, framework="numpy")
            self.header: dict[str, Any] = json.loads((self._file.metadata() or {})["header"])

    def strings(self, name: str) -> StringTable:
        with refusing(f"{self.path}: {name}", SafetensorError):
            ends = _MappedRows(self._file.get_slice(f"{name}_ends"))
            content = _MappedText(self._file.get_slice(name), f"{self.path}: {name}: damaged")
            return StringTable.of(content, ends)


class _MappedText:
    """Text of a file, of which what its ends say is read; where they are damaged, that is no text of it."""

    def __init__(self, content: Any, damaged: str) -> None:
        self._content, self._damaged = content, damaged

    def __getitem__(self, part: slice) -> Any:
        with refusing(self._damaged, SafetensorError, OverflowError):
            return self._content[part]


class _MappedRows:
    """Numbers of a file that are read one at a time."""

    def __init__(self, rows: Any) -> None:
        self._rows, self._length = rows, int(rows.get_shape()[0])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.integer[Any]:
        return self._rows[index : index + 1][0]


class Shard(_MappedFile):
    """Codes and keys of one slice; `skipped`: what was left out of it.

    Raises:
        UserError: it is something else, or damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "no shard of codes")
        self.facts = CodeFacts.from_fields(self.header, path)
        with refusing(f"{path}: no shard of codes, or a damaged one", SafetensorError, KeyError):
            self.origin = ShardOrigin(
                **{field.name: self.header[field.name] for field in dataclasses.fields(ShardOrigin)}
            )
            self._codes = self._file.get_slice("codes")
        self._length = int(self._codes.get_shape()[0])
        self.keys, self.skipped = self.strings("keys"), self.strings("skipped")
        if len(self.keys) != self._length:
            raise UserError(f"{path}: damaged: {self._length} codes, {len(self.keys)} keys")

    def __len__(self) -> int:
        return self._length

    def codes(self, first: int, last: int) -> np.ndarray:
        """(last - first, h, w) int64.

        Raises:
            UserError: a code is out of range; names the shard.
        """
        codes = self._codes[first:last].astype(np.int64)
        try:
            _check_codes(codes, self.facts, f"{self.path}: sample {first}")
        except ValueError as error:
            raise UserError(str(error)) from error
        return codes


class Captions(_MappedFile):
    """Captions of one shard; "" where there is none.

    Raises:
        UserError: it is something else, or damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "no captions of codes")
        with refusing(f"{path}: no captions of codes, or damaged ones", KeyError):
            self.shard: str = self.header["shard"]
            self.captioned: int = self.header["captioned"]
        self.texts = self.strings("captions")


# Open at once; those of a window are. A shard is opened in a fraction of a millisecond.
open_shard = lru_cache(maxsize=256)(Shard)
open_captions = lru_cache(maxsize=256)(Captions)


def _check_codes(codes: np.ndarray, facts: CodeFacts, where: str) -> None:
    if codes.shape[-2:] != facts.grid:
        raise ValueError(f"{where}: codes: expected a grid of {facts.grid}, found {codes.shape[-2:]}")
    if codes.size and not 0 <= codes.min() <= codes.max() < facts.codebook_size:
        raise ValueError(
            f"{where}: codes: expected 0 to {facts.codebook_size - 1}, found {codes.min()} to {codes.max()}"
        )
