"""A trained model as lmms-eval asks it: conversations in, answers out, in batches padded on the left.

What is notable here: a failure is a failure. Nothing is caught on the way, where adapters often answer with an empty
text instead; and answers are kept as they come (see `evals/answers.py`), where the framework's own response cache
keeps none of a run that did not end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as torch_dist
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from PIL import Image
from tqdm import tqdm

from common import dist
from common.errors import UserError
from common.models.weight_files import resolve_folder, weights_sha256
from evals.answers import Answers, answer_key, model_digest
from understanding.chat import load
from understanding.templates import IMAGE_TOKEN
from understanding.turns import Message, placed, read_picture

LENGTH = 1024  # tokens of an answer where a task names no number, as lmms-eval's LLaVA adapter has it
PATIENCE = timedelta(days=1)  # that a process waits for the slowest


class VqraeChat(lmms):
    """lmms-eval's chat interface to a LLaVA folder or hub id.

    Args:
        pretrained: what `understanding/train.py` exported, or a hub id.
        batch_size: conversations answered together by each process.
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
        self.answers = Answers(Path(answers) if answers else None, self._rank)
        # Not needed to tell models apart where answers live no longer than this process.
        known = model_digest(folder, weights or weights_sha256(folder)) if answers else ""
        self.identity = f"{known} {self.chat.model.dtype}"

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """One answer to each request, in their order; those already known are not asked again."""
        given: list[str] = [""] * len(requests)
        with tqdm(total=len(requests), desc="answers", unit="question", disable=self.rank != 0) as bar:
            for numbers in _batches(requests, self.batch_size):
                for number, answer in zip(numbers, self._answer([requests[n] for n in numbers]), strict=True):
                    given[number] = answer
                bar.update(len(numbers))
        return given

    def _answer(self, requests: Sequence[Instance]) -> list[str]:
        """To requests of equal settings, which are generated together."""
        settings = _settings(requests[0].args[2])
        until = settings["until"]
        conversations = [read_request(request, self.task_dict) for request in requests]
        keys = [answer_key(self.identity, *conversation, settings) for conversation in conversations]
        # The framework pads uneven shares by repeating a request; by its key it is asked once.
        unknown = {
            key: conversation
            for key, conversation in zip(keys, conversations, strict=True)
            if self.answers.get(key) is None
        }
        texts = self.chat.answer(
            list(unknown.values()),
            max_new_tokens=settings["max_new_tokens"],
            temperature=settings["temperature"],
        )
        self.answers.add({key: _cut(text, until) for key, text in zip(unknown, texts, strict=True)})
        return [self.answers.get(key) or "" for key in keys]

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


def read_request(request: Instance, documents: Mapping[str, Any]) -> tuple[list[Image.Image], list[Message]]:
    """The pictures and the turns of a request, as `understanding.chat` takes them.

    Args:
        documents: the framework's data sets, by task and split.

    Raises:
        UserError: a picture that cannot be read, or video or sound.
    """
    _, doc_to_messages, _, doc_id, task, split = request.args
    messages = ChatMessages(messages=doc_to_messages(documents[task][split][doc_id]))
    pictures: list[Image.Image] = []
    turns: list[dict[str, str]] = []
    for message in messages.messages:
        parts = []
        for part in message.content:
            if part.type == "image":
                pictures.append(_picture(part.url))
                parts.append(IMAGE_TOKEN)
            elif part.type == "text":
                # A placeholder of the data set's own has no picture of ours.
                parts.append(part.text.replace(IMAGE_TOKEN, "").strip())
            else:
                raise UserError(
                    f"{task}: question {doc_id}: {part.type} is not supported; pictures and text are"
                )
        turns.append({"role": message.role, "content": "\n".join(part for part in parts if part)})
    return pictures, placed(turns)


def _picture(source: Image.Image | str) -> Image.Image:
    return read_picture(source if isinstance(source, Image.Image) else Path(source))


def _batches(requests: Sequence[Instance], size: int) -> Iterator[list[int]]:
    """Numbers of requests with equal settings and texts of similar length, the longest first: memory fails early."""

    def settings(number: int) -> str:
        return repr(sorted(_settings(requests[number].args[2]).items()))

    order = sorted(range(len(requests)), key=lambda n: (settings(n), -len(requests[n].args[0]), n))
    for _, group in groupby(order, key=settings):
        numbers = list(group)
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def _settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """How to generate, from a task's `generation_kwargs`; greedy unless it says otherwise.

    Raises:
        UserError: beams, which the model's chat does not search.
    """
    if (asked.get("num_beams") or 1) != 1:
        raise UserError(f"generation_kwargs: num_beams: expected 1, found {asked['num_beams']}")
    until = asked.get("until") or []
    drawn = asked.get("do_sample") is not False
    return {
        "max_new_tokens": int(asked.get("max_new_tokens") or LENGTH),
        "temperature": float(asked.get("temperature") or 0.0) if drawn else 0.0,
        "until": [until] if isinstance(until, str) else list(until),
    }


def _cut(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of the strings that end an answer."""
    for end in filter(None, until):
        text = text.split(end, 1)[0]
    return text.strip()
