"""A talk with a model over several turns, within the positions that the model has.

What is notable here: what was computed for the turns so far is kept, so that a further question costs its own tokens
and no second look at a picture; and a talk never outgrows the model: it is refused, or drops its oldest turns.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from common.errors import UserError
from understanding.chat.decoding import SEEDS, Decoding
from understanding.chat.model import ChatModel, TooLong
from understanding.chat.prefix import Prefix
from understanding.chat.prompt import Prompt
from understanding.chat.turns import Message, Part, checked_text, read_picture, read_turns


class ChatSession:
    """A talk with `model`, which several talks may share, from several threads; one talk is one thread's at a time.

    Args:
        images: what the talk is about. They stand before the first question, also when turns were dropped; pictures
            that come with a later question leave with it.
        system: the system message, in place of the template's own.
        drop_oldest: make room for a question by dropping the oldest turns, where it would be refused otherwise.

    Attributes:
        dropped: turns that the model has not before its eyes any more.

    Raises:
        UserError: a picture or the system message cannot be used.
    """

    def __init__(
        self,
        model: ChatModel,
        images: Sequence[Any] = (),
        system: str | None = None,
        *,
        drop_oldest: bool = False,
    ) -> None:
        self.model, self.drop_oldest = model, drop_oldest
        self._system: list[Message] = []
        if system is not None:
            self._system = [{"role": "system", "content": checked_text(system)}]
        self._prefix = Prefix(model.model.config.get_text_config())
        self.reset(images)

    def reset(self, images: Sequence[Any] | None = None) -> None:
        """Start anew, about other pictures if any are given.

        Raises:
            UserError: a picture cannot be used; nothing has changed then.
        """
        if images is not None:
            self._images = [read_picture(image) for image in images]
        self._turns: list[tuple[Message, str]] = []
        self.dropped = 0

    @property
    def messages(self) -> list[Message]:
        """All that was said and is not dropped, as `ChatModel.answer` takes it."""
        return [*self._system, *(message for turn in self._turns for message in _both(turn))]

    def ask(
        self, question: str | Sequence[Part], images: Sequence[Any] = (), decoding: Decoding | None = None
    ) -> str:
        """The answer to a question.

        Args:
            question: a text, or content parts.
            images: pictures that come with it (opened by Pillow, or paths); before a text, or in the places that the
                parts name.

        Raises:
            UserError: a picture or the text cannot be used, or the talk is too long; it stays as it was.
        """
        return "".join(self.stream(question, images, decoding)).strip()

    def stream(
        self, question: str | Sequence[Part], images: Sequence[Any] = (), decoding: Decoding | None = None
    ) -> Generator[str, None, None]:
        """`ask`, piece by piece. A question whose answer fails, or is not heard to its end, counts as not asked."""
        decoding = decoding or Decoding()
        if decoding.seed is not None:  # else every turn would draw alike
            decoding = replace(decoding, seed=(decoding.seed + self.dropped + len(self._turns)) % SEEDS)
        pictures, (turn,) = read_turns(images, [{"role": "user", "content": question}])
        waiting = iter(pictures)
        parts = [
            {**part, "image": next(waiting)} if part["type"] == "image" else part for part in turn["content"]
        ]
        asked: Message = {"role": "user", "content": parts}
        prompt, first = self._fitting(asked, decoding)
        answer = ""
        for piece in self.model.stream_prompt(prompt, decoding, self._prefix):
            answer += piece
            yield piece
        self.dropped += first
        self._turns = [*self._turns[first:], (asked, answer.strip())]

    def _fitting(self, asked: Message, decoding: Decoding) -> tuple[Prompt, int]:
        """The talk with a question behind it, and how many turns had to go for it."""
        first = 0
        while True:
            said = [message for turn in self._turns[first:] for message in _both(turn)]
            try:
                return self.model.prompt(self._images, [*self._system, *said, asked], decoding), first
            except TooLong as error:
                if first == len(self._turns):
                    raise
                if not self.drop_oldest:
                    raise UserError(f"the talk is {error}") from error
                first += 1


def _both(turn: tuple[Message, str]) -> tuple[Message, Message]:
    """The question and the answer of a turn."""
    return turn[0], {"role": "assistant", "content": turn[1]}
