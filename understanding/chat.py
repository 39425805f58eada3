"""Talk to a trained model: batched answers, and one answer as it is written.

What is notable here: nothing of a run is needed but its exported folder, and nothing is done that the folder's own
processor and chat template would not do; so what is seen here is what any serving tool gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer
from transformers.utils import logging

from common.errors import UserError, refusing
from common.models.strict_loading import load_strictly
from common.models.weight_files import check_model_type, resolve_folder
from understanding.templates import IMAGE_TOKEN

Message = dict[str, str]
Request = tuple[Sequence[Image.Image], Sequence[Message]]
"""Pictures, and the turns so far: `role` (system, user or assistant) and `content`, the last one the user's."""

LENGTH = 256  # tokens of an answer at most, unless more are asked for


def load(
    source: str | Path, device: torch.device | str = "cpu", attn_implementation: str = "sdpa"
) -> ChatModel:
    """The model at `source`, a folder that training exported or a hub id of a LLaVA model.

    Its weights keep their precision on a GPU and are float32 on a CPU.

    Raises:
        UserError: nothing there, or a model of another kind.
    """
    folder = resolve_folder(str(source))
    check_model_type(folder, "llava")
    return ChatModel(
        *load_with_processor(folder, "a LLaVA model", device, attn_implementation=attn_implementation)
    )


def load_with_processor(
    folder: Path,
    called: str,
    device: torch.device | str,
    *,
    gpu_dtype: torch.dtype | str = "auto",
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Any model that answers about pictures, in evaluation mode on `device`, and its processor.

    Args:
        called: what the model should be, for errors.
        gpu_dtype: of its weights on a GPU, "auto" as saved; on a CPU they are float32.

    Raises:
        UserError: one of them is absent, of another kind or damaged.
    """
    logging.disable_progress_bar()
    dtype = torch.float32 if torch.device(device).type == "cpu" else gpu_dtype
    model = load_strictly(
        AutoModelForImageTextToText,
        folder,
        called,
        surplus=True,
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    with refusing(f"{folder}: cannot be loaded as {called}"):
        processor = AutoProcessor.from_pretrained(folder)
    return model.eval().to(device), processor


class ChatModel:
    """A `LlavaForConditionalGeneration` and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        processor.tokenizer.padding_side = "left"  # else answers would be written behind the padding

    def answer(
        self, requests: Sequence[Request], max_new_tokens: int = LENGTH, temperature: float = 0.0
    ) -> list[str]:
        """One answer to each of several conversations, all generated together.

        Args:
            temperature: 0 takes the likeliest token each time; else tokens are drawn.

        Raises:
            UserError: pictures and placeholders of a conversation differ in number, or a turn has an unknown role.
        """
        if not requests:
            return []
        inputs = self._inputs(requests)
        with torch.inference_mode():
            output = self.model.generate(**inputs, **self._settings(max_new_tokens, temperature))
        written = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(written, skip_special_tokens=True)]

    def stream(
        self,
        images: Sequence[Image.Image],
        messages: Sequence[Message],
        max_new_tokens: int = LENGTH,
        temperature: float = 0.0,
    ) -> Iterator[str]:
        """The answer to one conversation, piece by piece, as it is generated; `answer` gives the same text."""
        inputs = self._inputs([(images, messages)])
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failures: list[BaseException] = []

        def write() -> None:
            try:
                with torch.inference_mode():
                    settings = self._settings(max_new_tokens, temperature)
                    self.model.generate(**inputs, **settings, streamer=streamer)
            except BaseException as error:
                failures.append(error)
                streamer.end()  # whoever reads would wait for ever

        writer = Thread(target=write, daemon=True)
        writer.start()
        begun = False
        for piece in streamer:
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            if piece:
                yield piece
        writer.join()
        if failures:
            raise failures[0]

    def _inputs(self, requests: Sequence[Request]) -> Any:
        texts = [self._text(images, messages) for images, messages in requests]
        pictures = [image.convert("RGB") for images, _ in requests for image in images]
        # The template writes its own first token.
        inputs = self.processor(
            text=texts,
            images=pictures or None,
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )
        return inputs.to(self.model.device, self.model.dtype)

    def _text(self, images: Sequence[Image.Image], messages: Sequence[Message]) -> str:
        """The conversation as the model reads it. Pictures stand before the first question, unless it says where."""
        turns = [dict(message) for message in messages]
        placeholders = sum(turn.get("content", "").count(IMAGE_TOKEN) for turn in turns)
        first = next((turn for turn in turns if turn.get("role") == "user"), None)
        if not placeholders and first is not None:
            first["content"] = f"{IMAGE_TOKEN}\n" * len(images) + first["content"]
        elif placeholders != len(images):
            raise UserError(f"a conversation has {placeholders} {IMAGE_TOKEN} for {len(images)} pictures")
        with refusing("the conversation does not fit the model's template"):
            return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    @staticmethod
    def _settings(max_new_tokens: int, temperature: float) -> dict[str, Any]:
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens: expected 1 or more, found {max_new_tokens}")
        if temperature < 0:
            raise UserError(f"temperature: expected 0 or more, found {temperature}")
        if temperature == 0:
            return {"max_new_tokens": max_new_tokens, "do_sample": False}
        return {
            "max_new_tokens": max_new_tokens,
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,  # the library's own default would cut at 50
            "top_p": 1.0,
        }
