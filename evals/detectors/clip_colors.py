"""The colour of an object, named by CLIP: GenEval's zero-shot classifier over ten colours.

The object's mask is laid on grey (#999999), cropped to its box, and compared with three phrases of each colour. Source:
djghosh13/geneval, `evaluate_images.py`; the phrases' mean, the precision and the factor of 100, which matters in half
precision, as in CLIP_benchmark's zero-shot classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from common.errors import refusing
from common.models.strict_loading import load_strictly
from evals.detectors.coco_classes import COLORS as COLORS
from evals.detectors.detection import Box

TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")
BACKGROUND = "#999"


class ColorNamer:
    """Names colours with a `CLIPModel`, crops of whose size are prepared by `prepare`, and its text tokenizer."""

    def __init__(self, model: Any, prepare: Callable[[Image.Image], Tensor], text_tokenizer: Any) -> None:
        self._model, self._prepare = model.eval().float(), prepare
        self._text_tokenizer = text_tokenizer
        self._phrases: dict[str, Tensor] = {}

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str) -> ColorNamer:
        """A CLIP model of transformers.

        Raises:
            UserError: it is absent, of another kind, or damaged.
        """
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        with refusing(f"{folder}: no CLIP processor"):
            stated = CLIPImageProcessorPil.from_pretrained(folder)
            prepare = prepared_as_open_clip(
                int(stated.crop_size["height"]), tuple(stated.image_mean), tuple(stated.image_std)
            )
            text_tokenizer = CLIPTokenizer.from_pretrained(folder)
        model = load_strictly(CLIPModel, folder, "a CLIP model", surplus=True)
        return cls(model.to(device), prepare, text_tokenizer)

    def __call__(self, picture: Image.Image, mask: np.ndarray, box: Box, name: str) -> str:
        """The colour of COLORS nearest to an object of class `name`.

        Args:
            picture: RGB.
            mask: (H, W) bool.
            box: in px; not empty.
        """
        with torch.inference_mode(), self._precision():
            pixels = self._prepare(object_crop(picture, mask, box))[None].to(self._model.device)
            feature = self._model.get_image_features(pixel_values=pixels).pooler_output
            return COLORS[int((100 * normalize(feature, dim=-1) @ self._of_class(name).T).argmax())]

    def _precision(self) -> torch.autocast:
        """Half precision on a GPU, which the original always runs on."""
        kind = self._model.device.type
        return torch.autocast(kind, torch.float16, enabled=kind == "cuda")

    def _of_class(self, name: str) -> Tensor:
        """(10, D): a unit vector for each colour."""
        if name not in self._phrases:
            texts = [template.format(c=color, name=name) for color in COLORS for template in TEMPLATES]
            tokens = self._text_tokenizer(texts, padding=True, return_tensors="pt").to(self._model.device)
            features = normalize(self._model.get_text_features(**tokens).pooler_output, dim=-1)
            self._phrases[name] = normalize(features.unflatten(0, (len(COLORS), -1)).mean(1), dim=-1)
        return self._phrases[name]


def prepared_as_open_clip(
    side: int, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Callable[[Image.Image], Tensor]:
    """RGB -> (3, side, side), by torchvision's transforms as open_clip puts them together.

    transformers' processor cuts the centre out one pixel further up or left where the longer side exceeds `side` by
    3, 7, 11 ...: torchvision rounds halves to the even number, transformers down.
    """
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(side, bicubic), transforms.CenterCrop(side), transforms.ToTensor()]
    prepare: Callable[[Image.Image], Tensor] = transforms.Compose(
        [*steps, transforms.Normalize(mean, deviation)]
    )
    return prepare


def object_crop(picture: Image.Image, mask: np.ndarray, box: Box) -> Image.Image:
    """The object alone, on grey, cropped to its box (rounded to whole px)."""
    ground = Image.new("RGB", picture.size, BACKGROUND)
    left, top, right, bottom = (round(edge) for edge in box)
    return Image.composite(picture, ground, Image.fromarray(mask)).crop((left, top, right, bottom))
