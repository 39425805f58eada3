"""Answers of a model, kept as they are given, so that an interrupted evaluation asks nothing twice.

An answer is filed under all that it depends on: the model, the pictures, the text and how it was generated. So nothing
has to be said about what a folder of answers is for, and changed questions are simply asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import refusing

if TYPE_CHECKING:
    from PIL import Image


INSTRUCTION = "Answer with yes or no."
PLACES = ("source", "clip")
NEITHER = 0.05  # of the answers at most may be no choice, or who answers is no judge


class Answers:
    """The answers in `folder`, by all processes of this run and former ones; None keeps them in memory only.

    Each process appends to a file of its own, a line an answer, so that none waits for another.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        self._known: dict[str, str] = {}
        self._path: Path | None = None
        self.former: frozenset[str] = frozenset()
        """Keys of former runs."""
        if folder is None:
            return
        with refusing(f"{folder}: answers cannot be kept", OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("*.jsonl")):
                self._known.update(_read(path))
            self.former = frozenset(self._known)
            self._path = folder / f"{rank:05d}.jsonl"
            _end_last_line(self._path)

    def get(self, key: str) -> str | None:
        return self._known.get(key)

    def add(self, answers: Mapping[str, str]) -> None:
        """Keep answers by their keys; they are on disk when this returns."""
        self._known.update(answers)
        if self._path is not None and answers:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps({"key": key, "answer": text}) + "\n" for key, text in answers.items()
                )


def answer_key(
    model: str,
    pictures: Sequence[Image.Image],
    messages: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> str:
    """SHA-256 of what an answer depends on.

    Args:
        model: a digest of the model (see `model_digest`).
    """
    digest = hashlib.sha256(json.dumps([model, list(messages), settings], sort_keys=True).encode())
    for picture in pictures:
        digest.update(picture_digest(picture).encode())
    return digest.hexdigest()


def essential(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What looks or answers, as JSON gives it back, without where its weights lie: they have their hashes."""
    found = {
        key: essential(value) if isinstance(value, Mapping) else value
        for key, value in identity.items()
        if key not in PLACES
    }
    return dict(json.loads(json.dumps(found)))


def picture_digest(picture: Image.Image) -> str:
    """SHA-256 of mode, size and pixels."""
    return hashlib.sha256(repr((picture.mode, picture.size)).encode() + picture.tobytes()).hexdigest()


def model_digest(folder: Path, weights_sha256: str) -> str:
    """Of weights and of the small files beside them: configs, text tokenizer, chat template, preprocessing."""
    digest = hashlib.sha256(weights_sha256.encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".jinja", ".model", ".txt", ".yaml"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Iterable[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            yield record["key"], record["answer"]
        except (ValueError, KeyError, TypeError):
            continue  # cut off when the process was killed; asked again


def _end_last_line(path: Path) -> None:
    """A cut-off line stays behind as a line of its own, and does not swallow the next answer."""
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
