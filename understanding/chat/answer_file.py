"""Answers to a file of questions, a line each, kept as they come: an interrupted run goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import UserError, refusing
from common.files import write_json, write_text, writing
from understanding.chat.question_file import Question


class AnswerFile:
    """JSON Lines with `id`, `question`, `image`, `answer` and `key`, a hash of what was asked.

    How they were made stands beside them, in `NAME.settings.json`. A line that was torn when a process died is cut
    off. Used as a context manager; one process at a time.

    Args:
        settings: all that answers follow from besides the questions, as JSON.

    Raises:
        UserError: it cannot be written, another process writes to it, it is something else, or was made with other
            settings; what is there is untouched.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._beside = path.with_name(f"{path.name}.settings.json")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        try:
            with refusing(f"{path}: another process writes to it", BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(0)
            content = self._file.read()
            if content:
                self._check(settings)
            else:
                write_json(self._beside, settings)
            self.rows = self._read(content)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()
        if not self.rows:
            for path in (self.path, self._beside):
                path.unlink(missing_ok=True)

    def knows(self, question: Question) -> bool:
        """Whether it holds the answer to `question`.

        Raises:
            UserError: it holds one to something else by that id.
        """
        row = self.rows.get(_key(question.id))
        if row is None:
            return False
        try:
            key = question.open()[1]
        except UserError:  # the picture is gone; its answer stays
            key = row["key"]
        if (row["question"], row["key"]) != (question.question, key):
            raise UserError(
                f"{self.path}: id {json.dumps(question.id)} was answered for another question or picture; choose "
                "another file, or remove it"
            )
        return True

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append answers; they are on disk when this returns.

        Raises:
            UserError: they cannot be written.
        """
        with writing(self.path):
            self._file.write("".join(map(_line, rows)).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.rows |= {_key(row["id"]): dict(row) for row in rows}

    def sort(self, questions: Sequence[Question]) -> None:
        """Bring the answers into the order of the questions, if later ones came first."""
        order = [key for question in questions if (key := _key(question.id)) in self.rows]
        if order != list(self.rows):
            write_text(self.path, "".join(_line(self.rows[key]) for key in order))

    def _check(self, settings: Mapping[str, Any]) -> None:
        with refusing(
            f"{self.path}: is there already, and {self._beside.name} does not say how it was made",
            OSError,
            ValueError,
        ):
            made = json.loads(self._beside.read_text(encoding="utf-8"))
        for name in {**settings, **made} if isinstance(made, dict) else settings:
            if not isinstance(made, dict) or made.get(name) != settings.get(name):
                found = made.get(name) if isinstance(made, dict) else made
                raise UserError(
                    f"{self.path}: made with another {name} ({found}, now {settings.get(name)}); choose another file, "
                    "or remove it"
                )

    def _read(self, content: bytes) -> dict[Any, dict[str, Any]]:
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            with writing(self.path):
                self._file.truncate(len(content) - len(torn))
        rows = {}
        for number, line in enumerate(filter(None, whole.split(b"\n")), 1):
            with refusing(
                f"{self.path}:{number}: no answer of an earlier run", ValueError, KeyError, TypeError
            ):
                row = json.loads(line)
                rows[_key(row["id"])] = {
                    name: row[name] for name in ("id", "question", "image", "answer", "key")
                }
        return rows


def _key(known: int | str) -> tuple[type, int | str]:
    return type(known), known


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
