"""Our checkpoints as models of VLMEvalKit, in whose own environment this runs.

What prompt a benchmark gets depends in VLMEvalKit on the model's class. So these are its own LLaVA and InternVL
classes, with their prompts, around checkpoints that transformers reads without code of the checkpoint's own.

VLMEvalKit switches gradients off and seeds torch when it is imported: keep it out of any training.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from vlmeval.config import supported_VLM
from vlmeval.vlm import InternVLChat, LLaVA
from vlmeval.vlm.base import BaseModel
from vlmeval.vlm.internvl.utils import reorganize_prompt

from common.data.images import open_image
from common.errors import refusing
from common.models.weight_files import resolve_folder
from evals.vlmeval.cut_answers import CutAnswers, Message
from evals.vlmeval.internvl import Checkpoint
from understanding.chat.loading import load_with_processor
from understanding.chat.model import load
from understanding.templates import IMAGE_TOKEN

LLAVA_LENGTH = 1024  # tokens of an answer at most
INTERNVL_LENGTH = 4096  # as the class has it


class LlavaStyle(LLaVA):
    """A LLaVA of transformers, such as understanding/train.py exports; asked by its own chat template."""

    INTERLEAVE = True

    def __init__(self, source: str, cut: CutAnswers) -> None:
        BaseModel.__init__(self)
        self.chat_model, self.cut = load(source, _device()), cut

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        pictures = [open_image(Path(part["value"])) for part in message if part["type"] == "image"]
        # A placeholder of the data set's own would count as one of ours.
        text = "\n".join(part["value"].replace(IMAGE_TOKEN, "") for part in message if part["type"] == "text")
        question = {"role": "user", "content": text.strip()}
        answer = self.chat_model.answer([(pictures, [question])], max_new_tokens=LLAVA_LENGTH)[0]
        # An end that was reached is no token of the text.
        if (
            len(self.chat_model.processor.tokenizer(answer, add_special_tokens=False).input_ids)
            >= LLAVA_LENGTH
        ):
            self.cut.add(message, dataset)
        return answer


class InternVLStyle(InternVLChat):
    """An InternVL of transformers (-hf), such as understanding/internvl.py writes.

    Args:
        cut: where cut answers are noted. None: nothing is answered, and `model.heard` keeps what would be asked.
    """

    def __init__(self, source: str, cut: CutAnswers | None) -> None:
        BaseModel.__init__(self)
        folder = resolve_folder(source)
        if cut is None:
            from transformers import AutoProcessor

            self.device, model = torch.device("cpu"), None
            with refusing(f"{folder}: cannot be loaded as an InternVL model"):
                processor = AutoProcessor.from_pretrained(folder)
        else:
            self.device = _device()
            model, processor = load_with_processor(
                folder, "an InternVL model", self.device, gpu_dtype=torch.bfloat16
            )
        self.model, self.tokenizer = Checkpoint(model, processor, source), processor.tokenizer
        self.cut = cut
        # The class as its InternVL3 entries have it: no reasoning, one answer, its own prompts.
        self.version, self.system_prompt, self.best_of_n = "V2.0", None, 1
        self._use_custom_prompt, self.use_mpo_prompt, self.use_cot = True, False, False
        self.use_lmdeploy, self.use_postprocess = False, False
        self.cot_prompt, self.screen_parse = None, True
        self.kwargs: dict[str, Any] = {"do_sample": False, "max_new_tokens": INTERNVL_LENGTH, "top_p": None}

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        if any(part["type"] == "image" for part in message):
            answer = super().generate_inner(message, dataset)
        else:  # the class divides by the number of pictures
            question = reorganize_prompt(message, 0, dataset=dataset)
            answer = self.model.chat(self.tokenizer, None, question, dict(self.kwargs))
        if self.cut is not None and self.model.cut:
            self.cut.add(message, dataset)
        return str(answer)


def register(name: str, source: str, model_type: str, cut: CutAnswers) -> None:
    """Enter the checkpoint at `source` among VLMEvalKit's models.

    Args:
        model_type: of its config.json, `llava` or `internvl`.
    """
    style = {"llava": LlavaStyle, "internvl": InternVLStyle}[model_type]
    supported_VLM[name] = partial(style, source, cut)


def _device() -> torch.device:
    """Where VLMEvalKit runs this process: it has hidden the other GPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
