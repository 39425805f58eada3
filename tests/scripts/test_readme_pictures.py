"""The README's pictures: what failed is framed, margins are even, and a page loads at once."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from common.sheets import ASKED, GAP, PROMPT, SIDE, WRONG, tile
from scripts.demo import readme_pictures

BLUE, RED = (0, 0, 255), tuple(bytes.fromhex(WRONG[1:]))


def leave_verdicts(demo: Path, folder: str, right: set[int]) -> None:
    """Pictures of three prompts of two tags, `right` those whose number is; as an evaluation elsewhere leaves them."""
    lines = []
    for number, (tag, prompt) in enumerate(
        [("colors", "a blue one"), ("colors", "another"), ("counting", "two")]
    ):
        samples = demo / folder / "pictures" / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        for image in range(readme_pictures.COLUMNS + 1):
            path = samples / f"{image:04d}.png"
            Image.new("RGB", (32, 32), BLUE).save(path)
            metadata = json.dumps({"tag": tag, "prompt": prompt})
            filename = f"elsewhere/{path.relative_to(demo)}"
            lines.append({"metadata": metadata, "filename": filename, "correct": image in right})
    (demo / folder / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_fails_the_rules_is_framed(tmp_path: Path) -> None:
    leave_verdicts(tmp_path, "geneval", {0, 2, 4, 6})
    page = readme_pictures.drawn(tmp_path)
    assert page.height == 2 * (SIDE + GAP)  # a row for the first prompt of each tag
    for column in range(readme_pictures.COLUMNS):
        left = PROMPT + GAP + column * (SIDE + GAP)
        assert page.getpixel((left, 0)) == (RED if column % 2 else BLUE)
        assert page.getpixel((left + SIDE // 2, SIDE // 2)) == BLUE
    assert left + SIDE + GAP == page.width

    (tmp_path / "geneval" / "verdicts.jsonl").unlink()
    with pytest.raises(UserError, match=r"verdicts\.jsonl: no pictures were judged there"):
        readme_pictures.drawn(tmp_path)


def test_post_training_is_shown_beside_what_was_before(tmp_path: Path) -> None:
    leave_verdicts(tmp_path, "geneval", {1})
    leave_verdicts(tmp_path, "geneval_post_trained", {0, 1, 3})
    page = readme_pictures.post_training(tmp_path)
    # The corner of each picture, from left to right, of the first row.
    top = page.height - 2 * (SIDE + GAP)
    colors = [page.getpixel((x, top + 2)) for x in range(PROMPT, page.width)]
    tiles = [
        color for before, color in pairwise(colors) if color in (BLUE, RED) and before not in (BLUE, RED)
    ]
    assert tiles == [RED, BLUE, RED, RED, BLUE, BLUE, RED, BLUE]


def test_scenes_stand_above_what_is_left_of_them(world_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "world").symlink_to(world_folder)
    torch.manual_seed(0)
    for stage in (1, 2):
        model = VQRAE.from_encoder(build_encoder({**tiny.SIGLIP, "image_size": 32}), 32, 16, 4)
        model.save_pretrained(tmp_path / f"tokenizer_stage{stage}" / "model")
    page = readme_pictures.reconstructions(tmp_path)
    shown = [
        page.crop((PROMPT + GAP, row * (SIDE + GAP), PROMPT + GAP + SIDE, row * (SIDE + GAP) + SIDE))
        for row in range(3)
    ]
    with Image.open(world_folder / "val" / "000000.png") as scene:
        assert shown[0].tobytes() == tile(scene.convert("RGB")).tobytes()
    assert len({picture.tobytes() for picture in shown}) == 3
    assert page.height == 3 * (SIDE + GAP)


def test_answers_stand_in_two_columns(
    world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first four scenes with their own questions, the third at the top of the second column."""
    (tmp_path / "world").symlink_to(world_folder)
    asked = []

    class Model:
        def answer(
            self, requests: list[tuple[list[Image.Image], list[dict[str, str]]]], **_: int
        ) -> list[str]:
            asked.extend(pictures[0].tobytes() for pictures, _ in requests)
            return ["yes"] * len(requests)

    monkeypatch.setattr("understanding.chat.model.load", lambda source: Model())
    page = readme_pictures.answers(tmp_path)
    scenes = [Image.open(world_folder / "val" / f"{number:06d}.png").convert("RGB") for number in range(4)]
    assert list(dict.fromkeys(asked)) == [scene.tobytes() for scene in scenes]
    first, third = (tile(scenes[number], ASKED).tobytes() for number in (0, 2))
    assert page.crop((0, 0, ASKED, ASKED)).tobytes() == first
    tops = (page.crop((left, 0, left + ASKED, ASKED)).tobytes() for left in range(ASKED, page.width - ASKED))
    assert third in tops


def test_margins_are_even() -> None:
    page = Image.new("RGB", (50, 40), "white")
    page.paste(BLUE, (7, 3, 27, 13))
    trimmed = readme_pictures.trimmed(page, 5)
    assert trimmed.size == (30, 20) and trimmed.getpixel((5, 5)) == BLUE
    assert readme_pictures.trimmed(trimmed).size == (20, 10)


def test_a_picture_is_small_or_refused() -> None:
    rng = np.random.default_rng(0)
    plain = Image.new("RGB", (300, 300), BLUE)
    assert readme_pictures.compressed(plain)[:4] == b"\x89PNG"
    # Too much in full colour, and not with a palette.
    few = Image.fromarray(rng.integers(0, 256, (256, 3), np.uint8)[rng.integers(0, 256, (300, 300))])
    few.paste(Image.fromarray(rng.integers(0, 256, (180, 300, 3), np.uint8)))
    content = readme_pictures.compressed(few)
    assert len(content) <= readme_pictures.MOST and Image.open(io.BytesIO(content)).mode == "P"
    with pytest.raises(UserError, match="over 150000 bytes"):
        readme_pictures.compressed(Image.fromarray(rng.integers(0, 256, (800, 800, 3), np.uint8)))
