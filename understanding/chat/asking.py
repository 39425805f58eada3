"""A file of questions put to a model, batch after batch, into a file of answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from common.errors import MORE_MEMORY, UserError, out_of_memory
from understanding.chat.answer_file import AnswerFile
from understanding.chat.decoding import SEEDS, Decoding
from understanding.chat.model import ChatModel
from understanding.chat.prompt import Prompt
from understanding.chat.question_file import Question, read_questions
from understanding.chat.turns import Message, checked_text


class FileAsker:
    """Asks what a file asks.

    A line that cannot be answered is told on stderr, as `FILE:LINE: field: reason`, and the others are answered.

    Args:
        batch_size: questions answered together; halved where memory is too small for them.
        system: the system message, in place of the template's own.

    Attributes:
        failed: how many lines could not be answered.

    Raises:
        UserError: the file cannot be read, or is empty.
    """

    def __init__(
        self,
        chat: ChatModel,
        file: Path,
        decoding: Decoding,
        *,
        images: Path | None = None,
        system: str | None = None,
        batch_size: int = 16,
    ) -> None:
        self._chat, self._file, self._decoding, self._size = chat, file, decoding, batch_size
        self._system: list[Message] = (
            [] if system is None else [{"role": "system", "content": checked_text(system)}]
        )
        self.failed = 0
        self._questions: list[Question] = []
        for entry in read_questions(file, images):
            if isinstance(entry, Question):
                self._questions.append(entry)
            else:
                self._fail(*entry)
        if not self._questions and not self.failed:
            raise UserError(f"{file}: no questions")

    def run(self, answers: AnswerFile) -> None:
        """Append what is not answered yet to `answers`, in the order of the file.

        Raises:
            UserError: `answers` belong to another file, or cannot be written.
        """
        asked = {(type(question.id), question.id) for question in self._questions}
        if strange := [row["id"] for key, row in answers.rows.items() if key not in asked]:
            raise UserError(
                f"{answers.path}: id {strange[0]!r} is not asked in {self._file}; choose another file, or remove it"
            )
        open_ = [question for question in self._questions if not answers.knows(question)]
        done = len(self._questions) - len(open_)
        with tqdm(total=len(self._questions), initial=done, desc="answers", unit="question") as bar:
            prepared = self._prepared(open_, bar)
            while some := list(islice(prepared, self._size)):
                texts = self._answer([prompt for _, _, prompt in some], [question for question, _, _ in some])
                rows = [
                    {
                        "id": question.id,
                        "question": question.question,
                        "image": list(question.image),
                        "answer": text,
                        "key": key,
                    }
                    for (question, key, _), text in zip(some, texts, strict=True)
                    if text is not None
                ]
                answers.add(rows)
                bar.update(len(some))
        answers.sort(self._questions)

    def _prepared(self, questions: Sequence[Question], bar: tqdm) -> Iterator[tuple[Question, str, Prompt]]:
        """What can be asked, as the model reads it, with the hash of it."""
        for question in questions:
            try:
                pictures, key = question.open()
            except UserError as error:
                self._fail(question.line, str(error))
                bar.update()
                continue
            try:
                messages = [*self._system, {"role": "user", "content": question.question}]
                yield question, key, self._chat.prompt(pictures, messages, self._decoding)
            except UserError as error:
                self._fail(question.line, f"question: {error}")
                bar.update()

    def _answer(self, prompts: Sequence[Prompt], questions: Sequence[Question]) -> list[str | None]:
        """None where memory is too small for one alone."""
        seeds = None
        if self._decoding.seed is not None:
            seeds = [(self._decoding.seed + question.line) % SEEDS for question in questions]
        try:
            return list(self._chat.answer_prompts(prompts, self._decoding, seeds))
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Not in the handler: its traceback holds what is to be freed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(prompts) == 1:
            self._fail(questions[0].line, MORE_MEMORY)
            return [None]
        middle = (len(prompts) + 1) // 2
        if middle < self._size:
            self._size = middle
            _tell(f"not enough memory for {len(prompts)} questions at a time; going on with {middle}")
        return [
            text
            for half in (slice(None, middle), slice(middle, None))
            for text in self._answer(prompts[half], questions[half])
        ]

    def _fail(self, line: int, reason: str) -> None:
        self.failed += 1
        _tell(f"{self._file}:{line}: {reason}")


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
