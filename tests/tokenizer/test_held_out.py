"""What is shown of the held-out set while a run goes on."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from PIL import Image

from common.data.images import to_float
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from tokenizer.distances import Distances
from tokenizer.held_out import evaluate, first_images


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


def test_pictures_that_break_in_the_middle_of_a_run_end_nothing(tmp_path: Path) -> None:
    """Left out, counted and named, whatever their share; what is measured is the same without them."""
    pictures = tiny.write_pictures(tmp_path / "pictures", count=5)
    torch.manual_seed(0)
    model = VQRAE.from_encoder(build_encoder(tiny.SIGLIP), 32, 16, 4)
    config = tiny.tokenizer_recipe(pictures, tmp_path)
    device, said = torch.device("cpu"), []  # type: ignore[var-annotated]
    (pictures / "000.png").write_bytes(b"no picture")
    (pictures / "003.png").write_bytes((pictures / "003.png").read_bytes()[:60])
    scores = evaluate(model, config, device, Distances({}, {}), said.append)
    assert (scores["images"], scores["skipped"]) == (3, 2)
    assert (
        len(said) == 1
        and said[0].startswith("2 of 5 held-out images cannot be read")
        and "003.png" in said[0]
    )
    shown = first_images(config, device, count=4)
    assert shown is not None and len(shown) == 2

    for name in ("000.png", "003.png"):
        (pictures / name).unlink()
    alone = evaluate(model, config, device, Distances({}, {}), said.append)
    assert alone == {key: value for key, value in scores.items() if key != "skipped"} and len(said) == 1
