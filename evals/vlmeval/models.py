"""Our checkpoints as models of VLMEvalKit; imported in its environment only.

Which prompts a benchmark gets depends in VLMEvalKit on the model's class. So these are its own LLaVA and InternVL
classes, with their prompts, around checkpoints that transformers reads without code of the checkpoint's own.

VLMEvalKit switches gradients off and seeds torch when it is imported: keep it out of any training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from vlmeval.config import supported_VLM
from vlmeval.vlm import InternVLChat, LLaVA
from vlmeval.vlm.base import BaseModel
from vlmeval.vlm.internvl.utils import reorganize_prompt

from common.data.images import open_image
from common.models.weight_files import resolve_folder
from understanding.chat import load
from understanding.loading import load_with_processor
from understanding.templates import IMAGE_TOKEN

LENGTH = 1024  # tokens of an answer at most


class LlavaStyle(LLaVA):
    """A LLaVA of transformers, such as understanding/train.py exports."""

    INTERLEAVE = True

    def __init__(self, source: str) -> None:
        BaseModel.__init__(self)
        self.chat_model = load(source, _device())

    def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
        pictures = [open_image(Path(part["value"])) for part in message if part["type"] == "image"]
        # A placeholder of the data set's own would count as one of ours.
        text = "\n".join(part["value"].replace(IMAGE_TOKEN, "") for part in message if part["type"] == "text")
        question = {"role": "user", "content": text.strip()}
        return self.chat_model.answer([(pictures, [question])], max_new_tokens=LENGTH)[0]


class InternVLStyle(InternVLChat):
    """An InternVL of transformers (-hf), such as understanding/internvl.py writes."""

    def __init__(self, source: str) -> None:
        BaseModel.__init__(self)
        self.model, self.processor = load_with_processor(
            resolve_folder(source), "an InternVL model", _device(), gpu_dtype=torch.bfloat16
        )
        # What the prompts of the class look at: plain ones, without reasoning.
        self._use_custom_prompt, self.use_mpo_prompt, self.use_cot = True, False, False
        self.cot_prompt, self.screen_parse = None, True
        self.kwargs: dict[str, Any] = {"max_new_tokens": LENGTH}

    def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
        pictures = [open_image(Path(part["value"])) for part in message if part["type"] == "image"]
        # As the class does: its first picture is enlarged before tiling.
        if pictures and "MMMU" in (dataset or ""):
            width, height = pictures[0].size
            pictures[0] = pictures[0].resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
        self.set_max_num(dataset)
        tiles = max(1, min(self.max_num, self.total_max_num // max(1, len(pictures))))
        prompt = reorganize_prompt(message, len(pictures), dataset=dataset)
        turn = {"role": "user", "content": _parts(prompt, len(pictures))}
        text = self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        inputs = self.processor(
            text=[text],
            images=pictures or None,
            return_tensors="pt",
            **({"crop_to_patches": True, "min_patches": 1, "max_patches": tiles} if pictures else {}),
        ).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.kwargs["max_new_tokens"])
        written = ids[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(written, skip_special_tokens=True)[0].strip()


def register(name: str, source: str, model_type: str) -> None:
    """Enter the checkpoint at `source` among VLMEvalKit's models.

    Args:
        model_type: of its config.json, `llava` or `internvl`.
    """
    supported_VLM[name] = partial({"llava": LlavaStyle, "internvl": InternVLStyle}[model_type], source)


def _parts(prompt: str, pictures: int) -> list[dict[str, str]]:
    """The prompt in the words of a chat template, which writes a line break behind each picture itself."""
    first, *others = prompt.split(IMAGE_TOKEN, pictures)
    parts = [{"type": "text", "text": first}] if first else []
    for text in others:
        parts += [{"type": "image"}, {"type": "text", "text": text.removeprefix("\n")}]
    return parts


def _device() -> torch.device:
    """Where VLMEvalKit runs this process: it has hidden the other GPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
