"""Held-out conversations with damaged pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from common.errors import UserError
from understanding import assemble
from understanding.held_out import HeldOut


def held_out(shelf: Path, folder: Path, *overrides: str) -> HeldOut:
    """Of twelve conversations, the last four without a picture; everything but the weights of a language model."""
    source = f"{{annotations: {folder / 'conversations.json'}, images: {folder / 'images'}}}"
    config = tiny.understanding_recipe(
        shelf, folder / "run", "model.template=vicuna_v1", f"evaluation.source={source}", *overrides
    )
    tower = assemble.assemble_tower(config, torch.device("cpu"))
    processor = assemble.assemble_processor(config, tower)
    dataset = assemble.assemble_dataset(config, config.data.sources, processor)
    return HeldOut(config, tower, processor, dataset)


def test_damaged_ones_are_named_and_left_out_up_to_a_share(shelf: Path, tmp_path: Path) -> None:
    tiny.write_conversations(tmp_path)
    sound = held_out(shelf, tmp_path)
    assert sound.samples == list(range(12)) and sound.notices == []
    picture = tmp_path / "images" / "002.png"
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    (tmp_path / "images" / "005.png").unlink()
    found = held_out(shelf, tmp_path, "data.max_skipped_share=0.2")
    assert found.samples == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]
    (line,) = found.notices
    assert line.startswith(
        "warning: evaluation.source: 2 of 12 held-out samples cannot be read and are left out: "
    )
    assert "corrupt image" in line and "002.png" in line and "005.png" in line
    assert not {2, 5} & set(found._shown)
    with pytest.raises(
        UserError, match=r"2 of 12 held-out samples .*data\.max_skipped_share allows \(0\.1\)"
    ):
        held_out(shelf, tmp_path, "data.max_skipped_share=0.1")
