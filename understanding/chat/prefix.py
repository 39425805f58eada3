"""What a model has computed for a talk so far, so that the next question does not compute it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from understanding.chat.prompt import Prompt


class Prefix:
    """Keys and values (`past_key_values`) of the tokens that were read last, with the pictures among them.

    A picture is the same where its pixels are, as the model sees them; its tokens are kept whole or not at all.
    """

    def __init__(self, text_config: Any) -> None:
        self._text_config = text_config
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.cache = DynamicCache(config=self._text_config)
        self._ids: tuple[int, ...] = ()
        self._prompt: Prompt | None = None

    @contextmanager
    def continued(self, prompt: Prompt, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
        """The inputs of `prompt` with what is known of its beginning; only pictures behind that are seen again.

        After an error inside, nothing is known.
        """
        shared = self._cut(self._shared(prompt))
        seen = sum(stop <= shared for _, stop in prompt.spans or ())
        pictures = {name: inputs[name][seen:] for name in prompt.vision if seen < len(inputs[name])}
        texts = {name: tensor for name, tensor in inputs.items() if name not in prompt.vision}
        try:
            yield {**texts, **pictures, "past_key_values": self.cache}
        except BaseException:
            self.clear()
            raise

    def _cut(self, length: int) -> int:
        """Cut the cache down to so many tokens; returns how many are left."""
        try:
            self.cache.crop(length - len(self._ids))
        except Exception:  # layers with a window, or a state of their own, do not go back
            length = 0
        if length == 0:
            self.clear()
        return length

    def remember(self, ids: Sequence[int], prompt: Prompt) -> None:
        """The cache holds what was computed for `prompt` and its answer.

        Args:
            ids: of both; the cache may lack the last one.
        """
        if prompt.spans is None:
            self.clear()
            return
        self._ids = tuple(ids[: self.cache.get_seq_length()])
        self._prompt = prompt

    def _shared(self, prompt: Prompt) -> int:
        """How many tokens `prompt` begins with that are known."""
        known = self._prompt
        if known is None or known.spans is None or prompt.spans is None:
            return 0
        # The last token is always computed: what comes after it is asked for.
        shared = min(len(self._ids), len(prompt) - 1)
        pairs = enumerate(zip(self._ids, prompt.ids, strict=False))
        shared = min(shared, next((place for place, (old, new) in pairs if old != new), shared))
        for number, (start, stop) in enumerate(prompt.spans):
            if start < shared and not (
                stop <= shared
                and known.spans[number : number + 1] == ((start, stop),)
                and _alike(known, prompt, number)
            ):
                return start
        return shared


def _alike(one: Prompt, other: Prompt, number: int) -> bool:
    return all(torch.equal(one.vision[name][number], other.vision[name][number]) for name in other.vision)
