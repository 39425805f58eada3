"""Read a world folder back: the pictures and their ground truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.errors import refusing
from scripts.demo.scenes import Scene


@dataclass(frozen=True, kw_only=True)
class World:
    """One split: `images` (B, 3, S, S) uint8, and a scene and a record of `scenes.jsonl` for each."""

    images: torch.Tensor
    scenes: Sequence[Scene]
    records: Sequence[dict[str, Any]]


def read_world(folder: Path, split: str) -> World:
    """Split `train` or `val` of a folder written by `make_world.py`; UserError if it is not one."""
    path = folder / ("scenes.jsonl" if split == "train" else f"{split}_scenes.jsonl")
    with refusing(f"{path}: expected a world written by make_world.py", OSError, ValueError, KeyError):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        pictures = []
        for record in records:
            with Image.open(folder / record["image"]) as image:
                pictures.append(np.asarray(image.convert("RGB")))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return World(images=images, scenes=[Scene.from_dict(record) for record in records], records=records)
