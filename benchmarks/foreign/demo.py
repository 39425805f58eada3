"""The demo's own folders as cases: what is expected is what `vqrae`'s chat answers, and what its generator writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.foreign.case import Case, talked, went_on, with_picture
from common.data.images import read_image
from common.errors import UserError
from common.models.encoder_loading import load_encoder
from generation.model_folder import load_generator
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
    answers = _answers(chat, list(zip(pictures, [turns for _, turns in chosen], strict=True)))
    words, pixels, _ = talked(chat.model, chat.processor)
    asked = chat.processor(images=pictures[0], text=words["prompts"][0], return_tensors="pt")
    given = {key: asked[key] for key in ("input_ids", "pixel_values", "attention_mask")}
    talks = [with_picture(_parts(turns), shown) for (_, turns), shown in zip(chosen, pictures, strict=True)]
    return Case(
        name="demo's understanding",
        kind="llava",
        folder=folder.resolve(),
        given=given,
        expected={"logits": chat.model(**given).logits, "pixels": pixels},
        words=words,
        questions={"talks": talks, "length": WORDS, "positions": 1024},
        answers=answers,
        compared="texts",
    )


def _answers(chat: ChatModel, asked: list[Any]) -> list[str]:
    given: list[str] = []
    for start in range(0, len(asked), BATCH):
        requests = [([shown], placed(turns)) for shown, turns in asked[start : start + BATCH]]
        given += chat.answer(requests, max_new_tokens=WORDS)
    return given


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
