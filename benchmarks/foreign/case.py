"""A folder to be read by others, what is put into its model, and what has to come out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

TEXTS = ["A photo of two giraffes.", "  Is it red?\n<image>\nNo: 1, 22, 333", "Zwölf"]
TALK = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is left of it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A bowl."}]},
    {"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},
]
ANSWER = 8  # tokens


@dataclass(frozen=True, kw_only=True)
class Case:
    """A folder, what is put into its model, and what has to come out.

    Args:
        kind: tower, llava, internvl or generator.
        given: keyword arguments of the model's forward pass.
        expected: `logits`, (B, N, D) features for a tower; `pixels` of the picture.
        words: ids of `TEXTS`, `prompts` of the talk, `asked`, `padding_side`, the greedy `answer`: as far as there are.
        base: of an adapter.
        questions: for vLLM: `talks`, or `prompts` of ids; `length` of an answer and `positions` at most.
        asked: ids of the talks, a picture's tokens among them, as vLLM has to read them.
        answers: to the questions, `texts` or `ids` as `compared` says.
        logprobs: of the tokens of the answers.
    """

    name: str
    kind: str
    folder: Path
    given: dict[str, Tensor]
    expected: dict[str, Tensor]
    words: dict[str, Any] = field(default_factory=dict)
    base: Path | None = None
    questions: dict[str, Any] | None = None
    asked: list[list[int]] | None = None
    answers: list[Any] = field(default_factory=list)
    compared: str = "ids"
    logprobs: list[list[float]] | None = None


def picture() -> Image.Image:
    """Larger than the towers and no square: it is resized."""
    noise = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.numpy()).resize((70, 50), Image.Resampling.BICUBIC)


def talked(llava: Any, processor: Any, **options: Any) -> tuple[dict[str, Any], Tensor, list[list[float]]]:
    """The `words` of a case, the picture as the model saw it, and how likely each token of the answer was."""
    prompt = processor.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    asked = encoded(processor, picture(), prompt)
    (ids,), logprobs = greedy(llava, asked, ANSWER, **options)
    words = {
        "ids": processor.tokenizer(TEXTS).input_ids,
        "padding_side": processor.tokenizer.padding_side,
        "prompts": [prompt],
        "asked": asked.input_ids.tolist(),
        "answer": ids,
    }
    return words, asked.pixel_values, logprobs


def encoded(processor: Any, shown: Image.Image, prompt: str) -> Any:
    """A rendered prompt as a model reads it, here and in engines: its template has written `<s>`, a second is wrong."""
    return processor(images=shown, text=prompt, add_special_tokens=False, return_tensors="pt")


def with_picture(talk: Sequence[dict[str, Any]], shown: Image.Image) -> list[dict[str, Any]]:
    """A talk as engines are sent it: its picture in front of the first question, as a data URL."""
    file = BytesIO()
    shown.save(file, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    first, *rest = talk
    text = [part for part in first["content"] if part["type"] == "text"]
    return [{**first, "content": [{"type": "image_url", "image_url": {"url": url}}, *text]}, *rest]


def went_on(model: Any, prompts: Tensor, length: int) -> dict[str, Any]:
    """`questions` and `answers` of a case: how a generator goes on from ids, greedily."""
    given = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}
    model.generation_config = GenerationConfig(pad_token_id=0)  # without the guidance that a generator's has
    answers, logprobs = greedy(model, given, length)
    asked = {"prompts": prompts.tolist(), "length": length, "positions": prompts.shape[1] + length}
    return {"questions": asked, "answers": answers, "logprobs": logprobs}


def greedy(model: Any, given: Any, length: int, **options: Any) -> tuple[list[list[int]], list[list[float]]]:
    """The likeliest ids (B, L) one after the other, and the logarithm of how likely each was."""
    said = model.generate(
        **given,
        max_new_tokens=length,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    ids = said.sequences[:, given["input_ids"].shape[1] :]
    likely = torch.stack(said.logits, 1).float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return ids.tolist(), likely.tolist()


def widen(model: Any) -> None:
    """Weights with which layers and positions matter."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "norm" not in name:
            parameter.data.normal_(std=0.3 / max(1.0, (parameter.shape[-1] / 32) ** 0.5))
