"""The demo's own folders as cases: what is expected is what `vqrae`'s chat answers, and what its generator writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.foreign.case import Case, encoded, talked, went_on, with_picture
from common.data.images import read_image
from common.errors import UserError
from common.models.encoder_loading import load_encoder
from generation.model_folder import load_generator
from understanding.chat.decoding import Decoding
from understanding.chat.model import ChatModel, load
from understanding.chat.turns import placed
from understanding.conversation import questions, read_conversation
from understanding.templates import IMAGE_TOKEN

WORDS = 6  # tokens of the longest answer
BATCH = 40


@torch.no_grad()
def demo_cases(demo: Path, count: int) -> list[Case]:
    """Encoder, understanding and generator of a finished demo.

    Raises:
        UserError: the demo is not finished.
    """
    for part in ("encoder", "understanding_sft/model", "generator/model", "world"):
        if not (demo / part).is_dir():
            raise UserError(f"{demo / part}: no such folder; --demo wants what `bash scripts/demo.sh` leaves")
    return [_encoder(demo / "encoder"), _talks(demo, count), _generator(demo / "generator" / "model")]


def _encoder(folder: Path) -> Case:
    encoder = load_encoder(str(folder)).eval()
    pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    return Case(
        name="demo's encoder",
        kind="tower",
        folder=folder.resolve(),
        given={"pixel_values": pixels},
        expected={"logits": encoder.read(pixels)},
    )


def _talks(demo: Path, count: int) -> Case:
    """Held-out questions, each after the true turns before it, evenly from all of them."""
    folder, world = demo / "understanding_sft" / "model", demo / "world"
    chat = load(folder)
    records = json.loads((world / "val_questions.json").read_text(encoding="utf-8"))
    every = [
        (talk["image"], list(turns))
        for talk in records
        for turns, _ in questions(read_conversation(talk).messages)
    ]
    chosen = [every[place * len(every) // count] for place in range(min(count, len(every)))]
    pictures = [read_image(world / image) for image, _ in chosen]
    asked, answers = _answers(chat, list(zip(pictures, [turns for _, turns in chosen], strict=True)))
    words, pixels, _ = talked(chat.model, chat.processor)
    first = encoded(chat.processor, pictures[0], words["prompts"][0])
    given = {key: first[key] for key in ("input_ids", "pixel_values", "attention_mask")}
    talks = [with_picture(_parts(turns), shown) for (_, turns), shown in zip(chosen, pictures, strict=True)]
    return Case(
        name="demo's understanding",
        kind="llava",
        folder=folder.resolve(),
        given=given,
        expected={"logits": chat.model(**given).logits, "pixels": pixels},
        words=words,
        questions={"talks": talks, "length": WORDS, "positions": 1024},
        asked=asked,
        answers=answers,
        compared="texts",
    )


def _answers(chat: ChatModel, asked: list[Any]) -> tuple[list[list[int]], list[str]]:
    """The ids of each question, and the answer to it."""
    decoding = Decoding(WORDS)
    prompts = [chat.prompt([shown], placed(turns), decoding) for shown, turns in asked]
    given: list[str] = []
    for start in range(0, len(prompts), BATCH):
        given += chat.answer_prompts(prompts[start : start + BATCH], decoding)
    return [list(prompt.ids) for prompt in prompts], given


def _parts(turns: list[dict[str, str]]) -> list[dict[str, Any]]:
    """As `with_picture` takes them: the placeholder gives way to the picture itself."""
    said = [turn["content"].replace(IMAGE_TOKEN, "").strip() for turn in turns]
    return [
        {"role": turn["role"], "content": [{"type": "text", "text": text}]}
        for turn, text in zip(turns, said, strict=True)
    ]


def _generator(folder: Path) -> Case:
    """A picture's worth of ids after four beginnings of texts."""
    loaded = load_generator(str(folder), torch.float32, check_hash=False)
    model = loaded.model.eval()
    texts = ["a photo of a red circle", "two blue squares", "a green cross", "a photo of four triangles"]
    ids = loaded.text_tokenizer(texts).input_ids
    shortest = min(map(len, ids))
    prompts = torch.tensor([row[:shortest] for row in ids])
    return Case(
        name="demo's generator",
        kind="generator",
        folder=folder.resolve(),
        given={"input_ids": prompts},
        expected={"logits": model(input_ids=prompts).logits},
        **went_on(model, prompts, 64),
    )
