"""Pictures are squared as LLaVA's two stages do it, against PIL's own resizing, on real photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tiny
from PIL import Image
from text_tokenizers import llama_text_tokenizer
from transformers import LlavaProcessor

from common.models.encoder_loading import build_encoder
from understanding.processor import build_processor
from understanding.text_tokenizer import prepare_text_tokenizer

SIDE = 224


def processor_of(fit: Literal["crop", "pad", "resize"]) -> LlavaProcessor:
    encoder = build_encoder({**tiny.SIGLIP, "image_size": SIDE, "patch_size": 14})
    return build_processor(encoder, prepare_text_tokenizer(llama_text_tokenizer(), "vicuna_v1"), fit)


def squared(photo: Image.Image, fit: str) -> Image.Image:
    """`image_aspect_ratio` square and pad of LLaVA, and plain stretching, with PIL alone."""
    width, height = photo.size
    if fit == "crop":
        short = min(width, height)
        sides = (int(SIDE * width / short), int(SIDE * height / short))
        left, top = ((side - SIDE) // 2 for side in sides)
        return photo.resize(sides, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    if fit == "pad":
        long = max(width, height)
        square = Image.new("RGB", (long, long), (127, 127, 127))
        square.paste(photo, ((long - width) // 2, (long - height) // 2))
        photo = square
    return photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_photographs_become_llavas_squares(
    fit: Literal["crop", "pad"], photographs: Path, tmp_path: Path
) -> None:
    processor = processor_of(fit)
    processor.save_pretrained(tmp_path)
    served = LlavaProcessor.from_pretrained(tmp_path)
    shapes = set()
    for path in sorted((photographs / "coco128" / "images").glob("*.jpg"))[:12]:
        photo = Image.open(path).convert("RGB")
        shapes.add(photo.width > photo.height)
        pixels = processor.image_processor(photo, return_tensors="pt").pixel_values[0]
        assert pixels.shape == (3, SIDE, SIDE)
        levels = (pixels.permute(1, 2, 0).numpy() + 1) * 127.5
        difference = np.abs(levels - np.asarray(squared(photo, fit), np.float32))
        assert difference.max() <= 2 and difference.mean() < 0.2, path.name
        again = served.image_processor(photo, return_tensors="pt").pixel_values[0]
        assert (again == pixels).all()
    assert len(shapes) == 2  # wide and tall ones
