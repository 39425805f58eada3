"""GenEval's prompts and pictures on disk, in the layout that the original's own tools write and read.

    prompts.jsonl                      one prompt's metadata a line (see `evals/geneval/rules.py`)
    PICTURES/00012/metadata.jsonl      that of prompt 12, one object
    PICTURES/00012/samples/0003.png    its pictures, in the order of their numbers

What is notable here: prompts keep their number in the whole set, also where only some are looked at, so that a
partial run can be held against a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.decoding import read_notes
from common.errors import UserError, refusing
from common.files import write_text
from common.text import checked, parse_json, read_lines, read_text
from evals.geneval.rules import Metadata, judge

OFFICIAL_URL = "https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/evaluation_metadata.jsonl"
OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


@dataclass(frozen=True)
class Prompt:
    """A prompt's number in its set, and its metadata."""

    number: int
    metadata: Metadata

    @property
    def text(self) -> str:
        return str(self.metadata["prompt"])


@dataclass(frozen=True)
class Picture:
    """One picture to judge: of which prompt, the how manyeth of it (from 0), and its file."""

    prompt: Prompt
    image: int
    path: Path

    @property
    def name(self) -> str:
        """`00012/0003`."""
        return f"{self.prompt.number:05d}/{self.image:04d}"


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a .jsonl file.

    Raises:
        UserError: it cannot be read, is empty, or has a line that no rule of GenEval covers.
    """
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: no prompts")
    return [Prompt(number - 1, _metadata(line, f"{path}: line {number}")) for number, line in lines]


def described_prompts(pictures: Path) -> list[Prompt]:
    """The prompts that a folder of pictures describes itself, in its `metadata.jsonl` files.

    Raises:
        UserError: it describes none, or one that no rule of GenEval covers.
    """
    files = [path for path in sorted(pictures.glob("*/metadata.jsonl")) if path.parent.name.isdigit()]
    if not files:
        raise UserError(
            f"{pictures}: no NNNNN/metadata.jsonl: --prompts must say what the pictures should show"
        )
    return [Prompt(int(path.parent.name), _read_metadata(path)) for path in files]


def find_pictures(folder: Path, prompts: Sequence[Prompt], per_prompt: int) -> list[Picture]:
    """Exactly `per_prompt` pictures of each prompt, each of them whole.

    Raises:
        UserError: there are fewer or more, one is damaged, or a `metadata.jsonl` beside them states another prompt.
    """
    found = []
    for prompt in prompts:
        place = folder / f"{prompt.number:05d}"
        stated = place / "metadata.jsonl"
        if stated.is_file() and _read_metadata(stated) != prompt.metadata:
            raise UserError(f"{stated}: states another prompt than --prompts: {prompt.text!r}")
        files = sorted(path for path in place.glob("samples/*.png") if path.stem.isdigit())
        if len(files) != per_prompt:
            raise UserError(
                f"{place / 'samples'}: expected {per_prompt} pictures NNNN.png (-n), found {len(files)}"
            )
        for path in files:
            with refusing(f"{path}: not an image"):
                # Checksums: much sooner than decoding, and before a detector has looked for hours.
                read_notes(path, verify=True)
        found += [Picture(prompt, image, path) for image, path in enumerate(files)]
    return found


def write_metadata(folder: Path, prompts: Sequence[Prompt]) -> None:
    """The `metadata.jsonl` of each prompt, beside its pictures."""
    for prompt in prompts:
        path = folder / f"{prompt.number:05d}" / "metadata.jsonl"
        write_text(path, json.dumps(prompt.metadata) + "\n")


def is_official(content: bytes) -> bool:
    """Whether a file holds the official prompts."""
    return hashlib.sha256(content).hexdigest() == OFFICIAL_SHA256


def sha256_of(prompts: Sequence[Prompt]) -> str:
    """Of the prompts as a .jsonl file in the original's form; `OFFICIAL_SHA256` for the official ones, all of them."""
    text = "".join(json.dumps(prompt.metadata) + "\n" for prompt in prompts)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_metadata(path: Path) -> Metadata:
    return _metadata(read_text(path), str(path))


def _metadata(line: str, where: str) -> Metadata:
    metadata = parse_json(line, where)
    with refusing(f"{where}: no GenEval metadata", ValueError, KeyError, TypeError, AttributeError):
        if not isinstance(metadata["prompt"], str) or not metadata["prompt"]:
            raise ValueError("prompt: expected a text")
        metadata["prompt"] = checked(metadata["prompt"], f"{where}: prompt")
        judge(metadata, [])  # refuses what no rule covers
    return metadata
