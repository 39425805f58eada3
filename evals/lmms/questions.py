"""Questions of one's own as a task of lmms-eval: a file of LLaVA conversations, scored by exact answers.

Every question is asked after the true turns before it. Only short answers can be compared exactly: a turn whose
answer has more than three words is not asked, and stands before the later ones as it is. Where a record has `kinds`,
one a turn, each kind gets a score too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, refusing
from common.files import write_text
from evals.lmms.tasks import WHOLE
from understanding.conversation import BadSample, questions, read_conversation
from understanding.records.json_file import read_records
from understanding.templates import IMAGE_TOKEN

WORDS = 3  # of an answer that is asked for
LENGTH = 16  # tokens to answer with


def read_questions(path: Path, images: Path) -> list[dict[str, Any]]:
    """A row for each question: `pictures` (paths), `turns` up to it, `answer`, `kind` ("" where none is given).

    Args:
        images: the folder that the records' paths start from.

    Raises:
        UserError: a record is no conversation, its kinds are not one a turn, a picture is absent, or nothing is left
            to ask.
    """
    rows: list[dict[str, Any]] = []
    for number, (_, _, record) in enumerate(read_records(str(path)), 1):
        with refusing(f"{path}: record {number}", BadSample):
            talk = read_conversation(record)
        if any(isinstance(picture, bytes) for picture in talk.images):
            raise UserError(f"{path}: record {number}: image: expected a file, found a picture in the record")
        pictures = [str(images / str(name)) for name in talk.images]
        for picture in pictures:
            if not Path(picture).is_file():
                raise UserError(f"{path}: record {number}: image: {picture}: no such file")
        # A finished task counts for the same pictures only, and not for others of the same names.
        seen = hashlib.sha256(b"".join(hashlib.sha256(Path(one).read_bytes()).digest() for one in pictures))
        asked = list(questions(talk.messages))
        kinds = record.get("kinds") or [""] * len(asked)
        if len(kinds) != len(asked):
            raise UserError(f"{path}: record {number}: kinds: expected {len(asked)}, found {len(kinds)}")
        for (turns, answer), kind in zip(asked, kinds, strict=True):
            if len(answer.split()) <= WORDS:
                row = {"pictures": pictures, "pictures_sha256": seen.hexdigest(), "turns": turns}
                rows.append({**row, "answer": answer, "kind": kind})
    if not rows:
        raise UserError(f"{path}: no question has an answer of at most {WORDS} words")
    return rows


def write_task(name: str, path: Path, images: Path, folder: Path) -> None:
    """Put the questions where `questions_config` finds them; one process does. Raises as `read_questions`."""
    rows = read_questions(path, images)
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def questions_config(name: str, folder: Path) -> dict[str, Any]:
    """The task, in the words of lmms-eval's YAML files. It needs no network."""
    path = folder / f"{name}.jsonl"
    with path.open(encoding="utf-8") as file:
        kinds = sorted({json.loads(line)["kind"] for line in file} - {""})
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": {"max_new_tokens": LENGTH, "do_sample": False},
        "doc_to_messages": to_messages,
        "doc_to_text": lambda row: row["turns"][-1]["content"].replace(IMAGE_TOKEN, "").strip(),
        "doc_to_target": "answer",
        "process_results": score,
        "metric_list": [
            {"metric": metric, "aggregation": percentage, "higher_is_better": True}
            for metric in (WHOLE, *kinds)
        ],
    }


def to_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's turns in lmms-eval's chat protocol, each picture where its placeholder stood."""
    pictures = iter(row["pictures"])
    messages = []
    for turn in row["turns"]:
        content: list[dict[str, Any]] = []
        for place, text in enumerate(turn["content"].split(IMAGE_TOKEN)):
            if place:
                content.append({"type": "image", "url": next(pictures)})
            if text.strip():
                content.append({"type": "text", "text": text.strip()})
        messages.append({"role": turn["role"], "content": content})
    return messages


def score(row: Mapping[str, Any], answers: Sequence[str]) -> dict[str, int]:
    """1 for an exact answer, up to case and a full stop, else 0: for the whole, and for the question's kind."""
    right = int(_plain(answers[0]) == _plain(row["answer"]))
    return {WHOLE: right, **({row["kind"]: right} if row["kind"] else {})}


def percentage(hits: Sequence[int]) -> float:
    """Exact in whatever order the processes' shares are joined, since it adds whole numbers."""
    return 100 * sum(hits) / len(hits)


def _plain(answer: str) -> str:
    return answer.strip().removesuffix(".").lower()
