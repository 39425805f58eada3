"""Questions from a file: JSON Lines, each read for itself, so that one bad line costs one answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from common.errors import UserError, refusing
from common.text import parse_json
from understanding.chat.turns import checked_text, read_picture

FIELDS = {
    "id": "id",
    "question_id": "id",
    "question": "question",
    "text": "question",
    "image": "image",
    "images": "image",
}
"""Names that are read, LLaVA's own among them, and what they mean."""
PICTURES = ("image", "picture", "photo", "video")


@dataclass(frozen=True)
class Question:
    """A line of the file. `image` as it stands there; `line` from 1; `folder` is what paths start from."""

    line: int
    id: int | str
    question: str
    image: tuple[str, ...]
    folder: Path

    def open(self) -> tuple[list[Image.Image], str]:
        """The pictures, as upright RGB, and a hash of all that is asked: the text and the files' bytes.

        Raises:
            UserError: a picture is missing or cannot be read.
        """
        digest = hashlib.sha256(json.dumps([self.question, len(self.image)]).encode())
        pictures = []
        for name in self.image:
            path = self.folder / name
            with refusing(f"image: {path}", OSError, ValueError):
                if path.exists() and not path.is_file():
                    raise OSError("not a file")
                content = path.read_bytes()
            digest.update(hashlib.sha256(content).digest())
            pictures.append(read_picture(content, f"image: {path}"))
        return pictures, digest.hexdigest()[:32]


def read_questions(path: Path, folder: Path | None = None) -> Iterator[Question | tuple[int, str]]:
    """Each line's question, or its number and why it has none; empty lines are passed over.

    A line ends with a newline and nothing else; it holds an object with `question`, `image` (a path, several, or
    none; from the file's folder, or from `folder`) and `id` (else its number).

    Raises:
        UserError: the file cannot be read.
    """
    with refusing(f"{path}: cannot be read", OSError):
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    taken: dict[Any, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _read(number, line, folder or path.parent)
            key = (type(question.id), question.id)
            if key in taken:
                raise UserError(f"id: {json.dumps(question.id)} stands on line {taken[key]} already")
            taken[key] = number
            yield question
        except UserError as error:
            yield number, str(error)


def _read(number: int, line: bytes, folder: Path) -> Question:
    record = parse_json(line, "the line")
    if not isinstance(record, dict):
        raise UserError(f"expected an object, found {type(record).__name__}")
    stated: dict[str, Any] = {}
    for name, value in record.items():
        if meant := FIELDS.get(name):
            if meant in stated:
                raise UserError(f"{name}: {meant} is told twice")
            stated[meant] = value
        elif any(word in name.lower() for word in PICTURES):
            raise UserError(f"{name}: unknown; pictures are named by image")
    if "question" not in stated:
        raise UserError("question: missing")
    with refusing("question", UserError):
        text = checked_text(stated["question"]).strip()
        if not text:
            raise UserError("nothing is asked")
    image = stated.get("image") or []
    names = [image] if isinstance(image, str) else image
    if not (isinstance(names, list) and all(isinstance(name, str) and name for name in names)):
        raise UserError("image: expected a path, or a list of them")
    known = stated.get("id", number)
    if not isinstance(known, int | str) or isinstance(known, bool):
        raise UserError(f"id: expected a number or a text, found {str(known)[:40]}")
    if isinstance(known, str):
        with refusing("id", UserError):
            known = checked_text(known)
    return Question(number, known, text, tuple(names), folder)
