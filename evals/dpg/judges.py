"""Who answers DPG-Bench's questions about a picture: the original's mPLUG, or any chat model of the hub.

Only mPLUG gives figures that can be compared; a result names who answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from common.errors import refusing
from common.models.weight_files import resolve_folder, weights_sha256

MPLUG = "damo/mplug_visual-question-answering_coco_large_en"
INSTRUCTION = "Answer with yes or no."


class Judge(Protocol):
    """Answers questions about one RGB picture, each by itself; a yes is exactly `yes`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Whatever its answers follow from, as JSON."""
        ...

    def answer(self, picture: Image.Image, questions: Sequence[str]) -> list[str]: ...


class Mplug:
    """mPLUG large by modelscope, as the original asks it."""

    def __init__(self, device: torch.device | str) -> None:
        with refusing(f"modelscope: {MPLUG}: cannot be loaded"):
            from modelscope.pipelines import pipeline
            from modelscope.utils.constant import Tasks

            self._pipeline = pipeline(Tasks.visual_question_answering, model=MPLUG, device=str(device))
        self.identity = {"name": "mplug", "source": MPLUG}

    def answer(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        answers = []
        for question in questions:
            text = self._pipeline({"image": picture, "question": question})["text"]
            answers.append(text if isinstance(text, str) else str(text[0]))
        return answers


class ChatJudge:
    """A chat model with pictures (`AutoModelForImageTextToText`); the first word of its answer counts."""

    def __init__(self, model: Any, processor: Any, identity: Mapping[str, Any]) -> None:
        self._model, self._processor, self.identity = model, processor, identity

    @classmethod
    def from_pretrained(cls, source: str, device: torch.device | str) -> ChatJudge:
        """A local folder or a hub id; float32 on a CPU, as saved on a GPU.

        Raises:
            UserError: nothing there, or a model of another kind.
        """
        from understanding.loading import load_with_processor

        folder = resolve_folder(source)
        model, processor = load_with_processor(folder, "a chat model", device)
        identity = {
            "name": Path(source).name if Path(source).is_dir() else source,
            "source": source,
            "weights_sha256": weights_sha256(folder),
            "instruction": INSTRUCTION,
            "dtype": str(model.dtype),
        }
        return cls(model, processor, identity)

    def answer(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        """Greedy; lower case, without what stands around the word."""
        return [self._answer(picture, question) for question in questions]

    def _answer(self, picture: Image.Image, question: str) -> str:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": f"{question} {INSTRUCTION}"}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            ids = self._model.generate(**inputs, max_new_tokens=8, do_sample=False)
        words = self._processor.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        ).split()
        return words[0].strip(".,!:;\"'").lower() if words else ""


def tiles(grid: Image.Image) -> list[Image.Image]:
    """The four pictures of a 2 x 2 grid, row after row; ValueError if it is no square of even side."""
    side, odd = divmod(grid.width, 2)
    if grid.width != grid.height or odd or not side:
        raise ValueError(f"expected a square of 2 x 2 pictures, found {grid.width} x {grid.height} px")
    corners = [(left, top) for top in (0, side) for left in (0, side)]
    return [grid.crop((left, top, left + side, top + side)) for left, top in corners]


def grid_of(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures of one square size -> their 2 x 2 grid, row after row."""
    side = pictures[0].width
    grid = Image.new("RGB", (2 * side, 2 * side))
    for place, picture in enumerate(pictures):
        grid.paste(picture, (place % 2 * side, place // 2 * side))
    return grid
