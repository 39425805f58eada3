"""mPLUG as DPG-Bench's judge: pictures and questions prepared as modelscope's pipeline does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor
from transformers import BertTokenizer

from common.data.images import open_image
from common.errors import refusing
from common.models.weight_files import weights_sha256
from evals.answers import model_digest
from evals.dpg.mplug.beam import best_answers
from evals.dpg.mplug.checkpoint import load
from evals.dpg.mplug.model import RELEASED
from evals.dpg.mplug.released import NAME, VOCABULARY

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
LONGEST_QUESTION = 25  # tokens
AT_ONCE = 8  # questions


class MplugJudge:
    """See `judges.Judge`; answers are whatever mPLUG says, mostly a word or two, in lower case."""

    def __init__(self, folder: Path, device: torch.device | str) -> None:
        """From the released files, in float32.

        Raises:
            UserError: one is absent, damaged or another model's.
        """
        model, self._search, self._architecture = load(folder)
        with refusing(f"{folder / VOCABULARY}: cannot be read as a vocabulary"):
            self._text_tokenizer = BertTokenizer.from_pretrained(folder)
        self.model, self._device = model.to(device), torch.device(device)
        weights = weights_sha256(folder)
        self.key = model_digest(folder, weights)
        released = replace(self._architecture, bert={}, stride=RELEASED.stride) == RELEASED
        self.identity = {
            "name": "mplug",
            "source": NAME if released else str(folder),
            "weights_sha256": weights,
        }

    @torch.inference_mode()
    def answer(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        seen = self.model.see(self.pixels(picture))
        answers: list[str] = []
        for first in range(0, len(questions), AT_ONCE):
            ids, mask = self.tokens(questions[first : first + AT_ONCE])
            answers += self.draw(*self.model.read(seen, ids, mask))
        return answers

    def draw(self, states: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Answers from what `Mplug.read` gives."""
        return [
            self._text_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)
            for ids in best_answers(self.model.text_decoder, states, mask, self._search)
        ]

    def pixels(self, picture: Image.Image) -> torch.Tensor:
        """(1, 3, size, size): squeezed into a square, by CLIP's mean and deviation."""
        size = self._architecture.image_size
        square = open_image(picture).resize((size, size), Image.Resampling.BICUBIC)
        return normalize(to_tensor(square), MEAN, DEVIATION)[None].to(self._device)

    def tokens(self, questions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, both (Q, LONGEST_QUESTION): in lower case, cut or filled up."""
        given = self._text_tokenizer(
            [question.lower() for question in questions],
            padding="max_length",
            truncation=True,
            max_length=LONGEST_QUESTION,
            return_tensors="pt",
        )
        return given["input_ids"].to(self._device), given["attention_mask"].to(self._device)
