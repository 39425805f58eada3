"""What is shown of the held-out set while a run goes on."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from PIL import Image

from common.data.images import to_float
from tokenizer.held_out import first_images


def test_the_first_pictures_are_shown_in_their_order(tmp_path: Path) -> None:
    """Centre crops, all of them on the one rank that draws."""
    pictures = tiny.write_pictures(tmp_path / "pictures", count=12, size=16)
    shown = first_images(tiny.tokenizer_recipe(pictures, tmp_path), torch.device("cpu"), count=5)
    assert shown is not None and shown.shape == (5, 3, 16, 16)
    for number, found in enumerate(shown):
        with Image.open(pictures / f"{number:03d}.png") as picture:
            middle = picture.convert("RGB").crop((0, 2, 16, 18))  # 16 x 20 pixels
        rows = torch.tensor(list(middle.tobytes()), dtype=torch.uint8).reshape(16, 16, 3)
        assert torch.equal(found, to_float(rows.permute(2, 0, 1))), number
