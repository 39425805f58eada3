"""Questions to a model that looks at pictures, as a scorer: by any LLaVA-style folder, our own understanding model too.

What is notable here: nothing is written by the model. The logits of its answer's first token tell which of the choices
it gives, and how likely each is; if that token begins none of them, greedy decoding would have answered otherwise,
which is counted, and past `NEITHER` of all answers the model is refused as a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor

from common.config import plain
from common.errors import UserError, refusing
from common.models.weight_files import resolve_folder, weights_sha256
from common.text import shown
from evals.answers import NEITHER, model_digest
from evals.scorers.asked import Phrasing, Question, questions_of
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import as_rgb
from understanding.chat.decoding import Decoding
from understanding.chat.model import load

if TYPE_CHECKING:
    from understanding.chat.prompt import Prompt

FIRST = Decoding(max_new_tokens=8)
FEW = 20  # answers after which the share of those that are no choice counts as known
BLANK = 64  # px


class QuestionsScorer:
    """The mean over a prompt's questions. See `scorer.Scorer`.

    Args:
        answers: `probability`, of the right answer among the choices; or `answer`, 1 where it is the likeliest token
            of all, and else 0.
        prompts: all that will be scored.
        batch_size: questions asked at once.

    Attributes:
        asked, neither: answers so far, and how many of them were none of the choices.

    Raises:
        UserError: the model is absent, damaged or of another kind, or cannot answer; a prompt gives no questions; or a
            choice begins with the same token as another.
    """

    def __init__(
        self,
        source: str,
        device: torch.device | str,
        prompts: Sequence[ScoredPrompt],
        phrasing: Phrasing,
        answers: Literal["probability", "answer"] = "probability",
        batch_size: int = 32,
    ) -> None:
        for prompt in prompts:
            questions_of(prompt, phrasing)
        folder = resolve_folder(source)
        self.chat = load(folder, device)
        self.source, self.phrasing, self.answers, self.batch_size = source, phrasing, answers, batch_size
        self.asked = self.neither = 0
        self._tokens: dict[tuple[str, ...], list[list[int]]] = {}
        self.identity = {
            "name": "questions",
            "answers": answers,
            "phrasing": plain(phrasing),
            "by": {
                "source": source,
                "model_sha256": model_digest(folder, weights_sha256(folder)),
                "dtype": str(self.chat.model.dtype),
            },
        }
        for prompt in prompts:
            for question in questions_of(prompt, phrasing):
                self._first_tokens(question.choices)
        with refusing(f"{source}: cannot answer a question about a blank picture"):
            blank = self._prompt(Image.new("RGB", (BLANK, BLANK), "white"), "Is this a picture?")
            self.chat.first_logits([blank])

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        questions = questions_of(prompt, self.phrasing)
        # A picture after the other, and of each, a question after the other with all its texts.
        asked = [
            (question, self._prompt(picture, text))
            for picture in as_rgb(pictures)
            for question in questions
            for text in question.texts
        ]
        found: list[float] = []
        for first in range(0, len(asked), self.batch_size):
            found += self._answer(asked[first : first + self.batch_size])
        answers = iter(found)
        return [
            sum(_any(question, list(islice(answers, len(question.texts)))) for question in questions)
            / len(questions)
            for _ in pictures
        ]

    def _answer(self, asked: Sequence[tuple[Question, Prompt]]) -> list[float]:
        """How well each question is answered."""
        scores = []
        logits = self.chat.first_logits([prompt for _, prompt in asked])
        for (question, prompt), row in zip(asked, logits, strict=True):
            tokens = self._first_tokens(question.choices)
            right = question.choices.index(question.answer)
            said = int(row.argmax())
            self.asked += 1
            if not any(said in of_choice for of_choice in tokens):
                self.neither += 1
                self._check_judge(question, prompt)
            if self.answers == "answer":
                scores.append(float(said in tokens[right]))
            else:
                scores.append(_share(row, tokens, right))
        return scores

    def _check_judge(self, question: Question, prompt: Prompt) -> None:
        """Raises `UserError` once too many answers were none of the choices, with this one as an example."""
        if self.neither > NEITHER * max(self.asked, FEW):
            (text,) = self.chat.answer_prompts([prompt], FIRST)
            raise UserError(
                f"{self.source}: {self.neither} of {self.asked} answers are none of the choices, such as {shown(text)} "
                f"to {shown(question.text)} ({' or '.join(question.choices)}); over {NEITHER:.0%} it is no judge"
            )

    def _prompt(self, picture: Image.Image, text: str) -> Prompt:
        return self.chat.prompt([picture], [{"role": "user", "content": text}], FIRST)

    def _first_tokens(self, choices: tuple[str, ...]) -> list[list[int]]:
        """The tokens that may begin each choice, however it is written.

        Raises:
            UserError: one may begin two of them.
        """
        if choices not in self._tokens:
            tokens = [sorted({self._first_token(form) for form in _forms(choice)}) for choice in choices]
            for place, of_choice in enumerate(tokens):
                for other in range(place):
                    if set(of_choice) & set(tokens[other]):
                        raise UserError(
                            f"{self.source}: {choices[other]!r} and {choices[place]!r} begin alike for this model's "
                            "text tokenizer, so its answer's first token does not tell them apart"
                        )
            self._tokens[choices] = tokens
        return self._tokens[choices]

    def _first_token(self, text: str) -> int:
        """Of those that are no mere space, which some text tokenizers put before a word."""
        text_tokenizer: Any = self.chat.processor.tokenizer
        ids = text_tokenizer(text, add_special_tokens=False).input_ids
        return next((one for one in ids if text_tokenizer.decode([one]).strip()), ids[-1])


def _any(question: Question, scores: Sequence[float]) -> float:
    """One score from those of a question's texts, of which a yes to any is a yes."""
    return min(scores) if question.answer == "no" else max(scores)


def _forms(choice: str) -> list[str]:
    written = (choice, choice.capitalize(), choice.upper())
    return [f"{space}{form}" for form in written for space in ("", " ")]


def _share(logits: Tensor, tokens: Sequence[Sequence[int]], right: int) -> float:
    """The probability of the right choice, given that it is one of them. `logits`: (V,) float32."""
    of_each = torch.stack([logits[list(of_choice)].logsumexp(0) for of_choice in tokens])
    return float(of_each.softmax(0)[right])
