"""Read a world folder back: the pictures and their ground truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import refusing
from scripts.demo.scenes import Scene

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class World:
    """One split: `images` (B, 3, S, S) uint8, and a scene and a record of `scenes.jsonl` for each."""

    images: torch.Tensor
    scenes: Sequence[Scene]
    records: Sequence[dict[str, Any]]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of one of a world's files, JSON or JSON Lines; UserError if it is not one."""
    with refusing(f"{path}: expected a world written by make_world.py", OSError, ValueError):
        text = path.read_text(encoding="utf-8")
        return (
            json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        )


def read_world(folder: Path, split: str) -> World:
    """Split `train` or `val` of a folder written by `make_world.py`; UserError if it is not one."""
    import torch

    from common.data.images import read_image

    records = read_records(folder / ("scenes.jsonl" if split == "train" else f"{split}_scenes.jsonl"))
    pictures = [np.asarray(read_image(folder / record["image"])) for record in records]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return World(images=images, scenes=[Scene.from_dict(record) for record in records], records=records)
