"""Who answers DPG-Bench's questions about a picture: the original's mPLUG, or any chat model of the hub.

Only mPLUG gives figures that can be compared; a result names who answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from common.errors import UserError, refusing
from common.models.weight_files import resolve_folder, weights_sha256
from evals.answers import INSTRUCTION, model_digest
from evals.dpg.mplug.released import HOW, NAME, find, looks_like

BLANK = 64  # px


class Judge(Protocol):
    """Answers questions about one RGB picture, each by itself; a yes is exactly `yes`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Whatever its answers follow from, as JSON."""
        ...

    @property
    def key(self) -> str:
        """The same wherever its files are; answers are kept under it."""
        ...

    def answer(self, picture: Image.Image, questions: Sequence[str]) -> list[str]: ...


def open_judge(source: str, device: torch.device | str) -> Judge:
    """The judge, and asked one question about a blank picture: so whatever is amiss with it shows here.

    Args:
        source: `mplug`, a folder of its files, or a chat model's folder or hub id.

    Raises:
        UserError: it is absent, damaged, or cannot answer.
    """
    folder = find() if source == "mplug" else Path(source)
    if folder is None:
        raise UserError(f"{NAME}: not there; {HOW}")
    judge: Judge
    if looks_like(folder):
        from evals.dpg.mplug.judge import MplugJudge

        judge = MplugJudge(folder, device)
    else:
        judge = ChatJudge.from_pretrained(source, device)
    with refusing(f"{source}: cannot answer a question about a blank picture"):
        judge.answer(Image.new("RGB", (BLANK, BLANK), "white"), ["Is this a picture?"])
    return judge


class ChatJudge:
    """A chat model with pictures (`AutoModelForImageTextToText`); the first word of its answer counts."""

    def __init__(self, model: Any, processor: Any, identity: Mapping[str, Any], digest: str) -> None:
        self._model, self._processor, self.identity = model, processor, identity
        self.key = f"{digest} {model.dtype} {INSTRUCTION}"

    @classmethod
    def from_pretrained(cls, source: str, device: torch.device | str) -> ChatJudge:
        """A local folder or a hub id; float32 on a CPU, as saved on a GPU.

        Raises:
            UserError: nothing there, or a model of another kind.
        """
        from understanding.chat.loading import load_with_processor

        folder = resolve_folder(source)
        model, processor = load_with_processor(folder, "a chat model", device)
        weights = weights_sha256(folder)
        identity = {
            "name": Path(source).name if Path(source).is_dir() else source,
            "source": source,
            "weights_sha256": weights,
            "instruction": INSTRUCTION,
            "dtype": str(model.dtype),
        }
        return cls(model, processor, identity, model_digest(folder, weights))

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
