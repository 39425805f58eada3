"""The colour of an object, named by CLIP: GenEval's zero-shot classifier over ten colours.

The object's mask is laid on grey (#999999), cropped to its box, and compared with three phrases of each colour. Source:
djghosh13/geneval, `evaluate_images.py`; the phrases' mean as in CLIP_benchmark's zero-shot classifier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from evals.detectors.detection import Box

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")
BACKGROUND = "#999"


class ColorNamer:
    """Names colours with a `CLIPModel`, its image processor and its text tokenizer."""

    def __init__(self, model: Any, image_processor: Any, text_tokenizer: Any) -> None:
        self._model = model.eval().float()
        self._image_processor, self._text_tokenizer = image_processor, text_tokenizer
        self._phrases: dict[str, Tensor] = {}

    def __call__(self, picture: Image.Image, mask: np.ndarray, box: Box, name: str) -> str:
        """The colour of COLORS nearest to an object of class `name`.

        Args:
            picture: RGB.
            mask: (H, W) bool.
            box: in px; not empty.
        """
        with torch.inference_mode():
            pixels = self._image_processor(object_crop(picture, mask, box), return_tensors="pt")[
                "pixel_values"
            ]
            feature = self._model.get_image_features(pixel_values=pixels.to(self._model.device)).pooler_output
            return COLORS[int((normalize(feature, dim=-1) @ self._of_class(name).T).argmax())]

    def _of_class(self, name: str) -> Tensor:
        """(10, D): a unit vector for each colour."""
        if name not in self._phrases:
            texts = [template.format(c=color, name=name) for color in COLORS for template in TEMPLATES]
            tokens = self._text_tokenizer(texts, padding=True, return_tensors="pt").to(self._model.device)
            features = normalize(self._model.get_text_features(**tokens).pooler_output, dim=-1)
            self._phrases[name] = normalize(features.unflatten(0, (len(COLORS), -1)).mean(1), dim=-1)
        return self._phrases[name]


def object_crop(picture: Image.Image, mask: np.ndarray, box: Box) -> Image.Image:
    """The object alone, on grey, cropped to its box (rounded to whole px)."""
    ground = Image.new("RGB", picture.size, BACKGROUND)
    left, top, right, bottom = (round(edge) for edge in box)
    return Image.composite(picture, ground, Image.fromarray(mask)).crop((left, top, right, bottom))
