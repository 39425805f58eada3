"""A trained model as lmms-eval asks it: conversations in, answers out, in batches padded on the left.

What is notable here: questions are put as lmms-eval's own `llava` puts them, to the last byte (`read_request`). A
failure is a failure: nothing is caught on the way but too little memory, where adapters often answer with an empty
text instead. And answers are kept as they come (see `evals/answers.py`), where the framework's own response cache
keeps none of a run that did not end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as torch_dist
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from common import dist
from common.errors import UserError, out_of_memory
from common.models.weight_files import resolve_folder, weights_sha256
from evals.answers import Answers, answer_key, model_digest, picture_digest
from evals.fingerprint import PROMPTS
from evals.lmms.requests import Question, read_request, render, settings_of
from understanding.chat.decoding import Decoding
from understanding.chat.model import load
from understanding.templates import without_gap

PATIENCE = timedelta(days=1)  # that a process waits for the slowest


@dataclass
class Told:
    """What one process has to tell of a task."""

    kept: int = 0
    """Questions that former runs have answered."""
    too_long: int = 0
    """Questions that the model's context has no room for; they have an empty answer."""
    first: dict[tuple[str, int], Any] = field(default_factory=dict)
    """Of this process's share: what was asked, by task and number, for the first numbers."""


class VqraeChat(lmms):
    """lmms-eval's chat interface to a LLaVA folder or hub id.

    Args:
        pretrained: what `understanding/train.py` exported, or a hub id.
        batch_size: questions of one picture that each process answers together; of those with more, fewer.
        answers: a folder to keep answers in and to take known ones from.
        weights: SHA-256 of the weights, where it is known already.
        max_batch_size: of the framework's interface; not used.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        attn_implementation: str = "sdpa",
        answers: str | Path | None = None,
        weights: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        own = dist.start_process(device or "auto")
        self.batch_size = int(batch_size)
        folder = resolve_folder(pretrained)
        self.chat = load(folder, own, attn_implementation)
        self._rank, self._world_size = dist.rank(), dist.world()
        # Where the framework puts the little tensors that the processes exchange.
        nccl = torch_dist.is_initialized() and torch_dist.get_backend() == "nccl"
        self.device = own if nccl else torch.device("cpu")
        self.told = Told()
        self.answers = Answers(Path(answers) if answers else None, self._rank)
        # Not needed to tell models apart where answers live no longer than this process.
        known = model_digest(folder, weights or weights_sha256(folder)) if answers else ""
        self.identity = f"{known} {self.chat.model.dtype}"

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """One answer to each request, in their order; those already known are not asked again."""
        for request in requests:
            *_, doc_id, task, _ = request.args
            if doc_id < PROMPTS:
                self.told.first[task, doc_id] = self.rendered(request, self.task_dict)
        given: list[str] = [""] * len(requests)
        with tqdm(total=len(requests), desc="answers", unit="question", disable=self.rank != 0) as bar:
            for batch in self._batches(requests):
                answers = self._answer([question for _, question in batch])
                for (number, _), answer in zip(batch, answers, strict=True):
                    given[number] = answer
                bar.update(len(batch))
        return given

    def rendered(self, request: Instance, documents: Mapping[str, Any]) -> list[Any]:
        """What reaches the model: the text without its first token, the pictures, and how the answer is written.

        The first token is left to the text tokenizer by some and written by the template by others, and so is what
        brings about the tokens that LLaVA gets by encoding texts apart (see `understanding/templates.py`).
        """
        question, processor = read_request(request, documents), self.chat.processor
        text = render(processor, question, without_gap(processor.chat_template))
        bos = processor.tokenizer.bos_token
        if bos and text.startswith(bos):
            text = text.removeprefix(bos).removeprefix(" ")
        return [text, [picture_digest(picture) for picture in question.pictures], question.settings]

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[tuple[int, Question]]]:
        """Numbered questions of equal settings and texts of similar length, the longest first: memory fails early.

        A batch is padded to its longest question, and what is long is pictures: there are no more than `batch_size`
        questions times pictures of the one that has the most, unless a single question has more.
        """

        def settings(number: int) -> str:
            return repr(sorted(settings_of(requests[number].args[2]).items()))

        order = sorted(range(len(requests)), key=lambda n: (settings(n), -len(requests[n].args[0]), n))
        for _, group in groupby(order, key=settings):
            batch: list[tuple[int, Question]] = []
            for number in group:
                question = read_request(requests[number], self.task_dict)
                widest = max(1, *(len(one.pictures) for _, one in batch), len(question.pictures))
                if batch and (len(batch) + 1) * widest > self.batch_size:
                    yield batch
                    batch = []
                batch.append((number, question))
            yield batch

    def _answer(self, questions: Sequence[Question]) -> list[str]:
        """To questions of equal settings, which are generated together."""
        keys = [answer_key(self.identity, one.pictures, one.turns, one.settings) for one in questions]
        # The framework pads uneven shares by repeating a request; by its key it is asked once.
        unknown = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if self.answers.get(key) is None
        }
        self.told.kept += sum(key in self.answers.former for key in keys)
        self.answers.add(dict(zip(unknown, self._ask(list(unknown.values())), strict=True)))
        return [self.answers.get(key) or "" for key in keys]

    def _ask(self, questions: Sequence[Question]) -> list[str]:
        """Answers; by halves where memory does not do for all, and for all that comes later."""
        answers: list[str] = []
        size = len(questions)
        while len(answers) < len(questions):
            share = questions[len(answers) : len(answers) + size]
            try:
                answers += self.generate(share)
                continue
            except Exception as error:
                if len(share) < 2 or not out_of_memory(error):
                    raise
            # Out here the exception no longer holds the failed attempt's tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size = (len(share) + 1) // 2
            self.batch_size = min(self.batch_size, size * max(1, *(len(one.pictures) for one in share)))
            print(f"out of memory with {len(share)} questions at once: {size} from here on", flush=True)
        return answers

    def generate(self, questions: Sequence[Question]) -> list[str]:
        """Answers to questions of equal settings, all at once; none to one that the context has no room for."""
        decoding = Decoding(**questions[0].settings)
        room = self.chat.room(decoding)
        prompts = [
            self.chat.prompt_of_text(one.pictures, render(self.chat.processor, one)) for one in questions
        ]
        fitting = [prompt for prompt in prompts if room is None or len(prompt) <= room]
        self.told.too_long += len(prompts) - len(fitting)
        texts = iter(self.chat.answer_prompts(fitting, decoding))
        return [next(texts) if room is None or len(prompt) <= room else "" for prompt in prompts]

    def loglikelihood(self, requests: Any) -> NoReturn:
        raise UserError(
            "vqrae: tasks that score given answers (loglikelihood) are not supported; it generates"
        )

    def generate_until_multi_round(self, requests: Any) -> NoReturn:
        raise UserError("vqrae: tasks of several rounds (generate_until_multi_round) are not supported")


def join_processes() -> None:
    """Join the launcher's group, if any, for evaluations: by way of the CPU, and patiently.

    Processes meet only at the end of a task, where the slowest may be far behind; NCCL would give up on it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch_dist.is_initialized():
        torch_dist.init_process_group("gloo", timeout=PATIENCE)
