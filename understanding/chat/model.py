"""Talk to a trained model: batched answers, and one answer as it is written.

What is notable here: nothing of a run is needed but its exported folder, and nothing is done that the folder's own
processor and chat template would not do; so what is seen here is what any serving tool gives. Several threads may
use one `ChatModel`: its calls wait for each other, a whole batch or answer at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from common.errors import UserError, refusing
from common.models.weight_files import check_model_type, resolve_folder
from understanding.chat.decoding import LENGTH, Decoding
from understanding.chat.loading import DeviceMap, Dtype, load_with_processor
from understanding.chat.prefix import Prefix
from understanding.chat.prompt import Prompt, PromptWriter, batch
from understanding.chat.turns import Message, Request


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    attn_implementation: str = "sdpa",
    *,
    dtype: Dtype = "auto",
    device_map: DeviceMap | None = None,
    bits: int | None = None,
) -> ChatModel:
    """The model at `source`, a folder that training exported or a hub id of a LLaVA model.

    Args:
        dtype, device_map, bits: see `load_with_processor`; by default weights keep their precision on a GPU and are
            float32 on a CPU.

    Raises:
        UserError: nothing there, a model of another kind, or too little memory for it.
    """
    folder = resolve_folder(str(source))
    check_model_type(folder, "llava")
    model, processor = load_with_processor(
        folder,
        "a LLaVA model",
        device,
        attn_implementation=attn_implementation,
        dtype=dtype,
        device_map=device_map,
        bits=bits,
    )
    with refusing(folder, UserError):
        return ChatModel(model, processor)


class TooLong(UserError):
    """A conversation leaves no room for an answer."""


class ChatModel:
    """A `LlavaForConditionalGeneration` and its processor.

    Attributes:
        positions: tokens that a prompt and its answer may have together; None without a limit.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._writer = PromptWriter(processor, model.config)
        self._lock = Lock()

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu", **options: Any) -> ChatModel:
        """`load` by the name that the library's own classes give it."""
        return load(source, device, **options)

    def answer(
        self,
        requests: Sequence[Request],
        max_new_tokens: int = LENGTH,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> list[str]:
        """One answer to each of several conversations, all generated together; settings as of `Decoding`.

        Raises:
            UserError: a conversation cannot be used (see `read_turns`), is too long, or does not fit the template.
        """
        decoding = Decoding(max_new_tokens, temperature, top_p, seed)
        return self.answer_prompts([self.prompt(*request, decoding) for request in requests], decoding)

    def stream(
        self,
        images: Sequence[Image.Image],
        messages: Sequence[Message],
        max_new_tokens: int = LENGTH,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The answer to one conversation, piece by piece, as it is generated; `answer` gives the same text."""
        decoding = Decoding(max_new_tokens, temperature, top_p, seed)
        yield from self.stream_prompt(self.prompt(images, messages, decoding), decoding)

    def prompt(
        self, images: Sequence[Image.Image], messages: Sequence[Message], decoding: Decoding
    ) -> Prompt:
        """A conversation as the model reads it, which leaves room for an answer.

        Raises:
            UserError: as of `answer`.
        """
        with self._lock:  # a fast text tokenizer cannot be used by two threads
            prompt = self._writer.write(images, messages)
        room = self.room(decoding)
        if room is not None and len(prompt) > room:
            raise TooLong(
                f"too long: {len(prompt)} tokens, of which {room} fit: the model has {self.positions} positions, and "
                "keeps some for its answer"
            )
        return prompt

    def prompt_of_text(self, pictures: Sequence[Image.Image], text: str) -> Prompt:
        """What a template has rendered already, with the processor's image token where each picture stands.

        It is not compared with `room`.
        """
        with self._lock:
            return self._writer.write_text(pictures, text)

    def room(self, decoding: Decoding) -> int | None:
        """Tokens that a prompt may have; a quarter of all positions is kept for the answer at most."""
        if self.positions is None:
            return None
        return self.positions - min(decoding.max_new_tokens, self.positions // 4)

    def answer_prompts(
        self, prompts: Sequence[Prompt], decoding: Decoding, seeds: Sequence[int] | None = None
    ) -> list[str]:
        """`answer` of what `prompt` has prepared.

        Args:
            seeds: one for each prompt, in place of the one of `decoding`.
        """
        if not prompts:
            return []
        output, width = self._generate(prompts, decoding, seeds)
        texts = self.processor.batch_decode(
            [
                # An answer ends where the positions do, however much longer the others are.
                row[width : width + self._longest(prompt, decoding)]
                for row, prompt in zip(output.tolist(), prompts, strict=True)
            ],
            skip_special_tokens=True,
        )
        return [text.strip() for text in texts]

    def first_logits(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits (B, V) in float32 of the first token of each answer to what `prompt` has prepared, one or more."""
        options: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True}
        output, _ = self._generate(prompts, Decoding(max_new_tokens=1), **options)
        return output.logits[0].float()

    def stream_prompt(
        self, prompt: Prompt, decoding: Decoding, prefix: Prefix | None = None
    ) -> Generator[str, None, None]:
        """The answer to what `prompt` has prepared, piece by piece; closing it ends the generation.

        Args:
            prefix: what is known of the prompt's beginning, and afterwards of all of it.
        """
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failures: list[BaseException] = []
        closed = _Closed()

        def write() -> None:
            options = {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([closed])}
            try:
                self._generate([prompt], decoding, prefix=prefix, **options)
            except BaseException as error:
                failures.append(error)
                streamer.end()  # whoever reads would wait for ever

        writer = Thread(target=write, daemon=True)
        writer.start()
        begun = False
        try:
            for piece in streamer:
                piece = piece if begun else piece.lstrip()
                begun = begun or bool(piece)
                if piece:
                    yield piece
        finally:
            closed.event.set()
            writer.join()
        if failures:
            raise failures[0]

    def _generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        seeds: Sequence[int] | None = None,
        prefix: Prefix | None = None,
        **options: Any,
    ) -> tuple[Any, int]:
        """Ids of prompts and answers, (B, N), or what else `options` ask for; and how wide the prompts are."""
        text_tokenizer = self.processor.tokenizer
        special = (text_tokenizer.pad_token_id, text_tokenizer.eos_token_id, 0)
        pad = next(token for token in special if token is not None)
        inputs = {name: self._moved(tensor) for name, tensor in batch(prompts, pad).items()}
        width = inputs["input_ids"].shape[1]
        draws = decoding.draws(seeds, len(prompts))
        known_part = nullcontext(inputs) if prefix is None else prefix.continued(prompts[0], inputs)
        with self._lock, torch.inference_mode(), known_part as inputs:
            output = self.model.generate(
                **inputs,
                do_sample=False,  # `draws` draw
                max_new_tokens=max(self._longest(prompt, decoding) for prompt in prompts),
                logits_processor=LogitsProcessorList(draws),
                pad_token_id=pad,
                **options,
            )
            if prefix is not None:
                prefix.remember(output[0].tolist(), prompts[0])
        return output, width

    def _longest(self, prompt: Prompt, decoding: Decoding) -> int:
        """Tokens that an answer may have."""
        left = decoding.max_new_tokens if self.positions is None else self.positions - len(prompt)
        return min(decoding.max_new_tokens, left)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)


class _Closed(StoppingCriteria):
    """Ends generation once nobody listens."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)
