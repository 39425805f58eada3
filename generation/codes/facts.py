"""What all codes of one folder have in common, so that codes of another tokenizer are never mixed in."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, refusing

MANIFEST = "codes.json"
FORMAT = 2


@dataclass(frozen=True)
class CodeFacts:
    """What codes mean.

    Args:
        vqrae_sha256, codebook_size: the tokenizer.
        grid: (h, w) of a picture's codes. image_size, crop, exact_decoding: the pixels they stand for.
        precision: of the encoder.
    """

    vqrae_sha256: str
    codebook_size: int
    grid: tuple[int, int]
    image_size: int
    crop: str
    precision: str
    exact_decoding: bool = False

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_fields(cls, fields: dict[str, Any], where: Path) -> CodeFacts:
        """Raises `UserError` if `fields`, found at `where`, are something else."""
        with refusing(f"{where}: no extracted codes, or of another version"):
            if fields["format"] != FORMAT:
                raise ValueError(f"format: expected {FORMAT}, found {fields['format']}")
            known = {field.name: fields[field.name] for field in dataclasses.fields(cls)}
            return cls(**{**known, "grid": tuple(fields["grid"])})

    def check(self, expected: CodeFacts, where: Path) -> None:
        """Raises `UserError` naming the first field in which these facts, found at `where`, are not the expected
        ones."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(expected, field.name)
            if mine != theirs:
                what = "they were made by another VQRAE; " if field.name == "vqrae_sha256" else ""
                raise UserError(
                    f"{where}: {field.name}: {what}the codes there have {_short(mine)}, the recipe {_short(theirs)}"
                )


def read_facts(folder: Path) -> CodeFacts:
    """Raises `UserError` if no codes were extracted into `folder`, or by a former version."""
    path = folder / MANIFEST
    refuse_former(folder)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: no extracted codes there ({error.strerror}); run generation/extract_codes.py with this recipe"
        ) from error
    with refusing(f"{path}: no extracted codes, or of another version"):
        fields = dict(json.loads(text))
    return CodeFacts.from_fields(fields, path)


def refuse_former(folder: Path) -> None:
    """Raises:
    UserError: a former version has put codes there, in a folder for each place in a recipe's list of sources.
    """
    former = sorted(folder.glob(f"source_*/{MANIFEST}"))
    if former and not (folder / MANIFEST).exists():
        raise UserError(
            f"{former[0]}: codes of a former version, which knew a source by its place in the recipe alone; encode "
            "again into another folder: generation/extract_codes.py with this recipe and data.codes=NEW_FOLDER"
        )


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, tuple)) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
