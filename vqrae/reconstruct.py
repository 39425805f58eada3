"""Put pictures through a tokenizer and write what comes back.

IN is a picture or a folder of them (searched recursively); OUT is the PNG to write, or a folder that receives
one PNG per picture under the same relative path. A picture keeps its aspect ratio: its shorter edge becomes
the model's size (or --size) and its longer edge the nearest multiple of the model's output patch. With
--square it is resized by its shorter edge and cut to the centre square, as in training. What is written has
that size.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import add_device, positive
from common.errors import UserError
from common.outputs import add_overwrite, check_pictures

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from common.models.vqrae import VQRAE

HELP = "write a picture, or a folder of them, as the tokenizer rebuilds it"
MAX_ASPECT = 8
"""Longer edge over shorter edge; beyond, the tokens of one picture would fill the memory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="VQRAE folder or hub id")
    parser.add_argument("source", metavar="IN", type=Path, help="picture, or folder of pictures")
    parser.add_argument("target", metavar="OUT", type=Path, help="PNG file, or folder")
    parser.add_argument("--square", action="store_true", help="centre crop, as in training")
    parser.add_argument(
        "--size", type=positive, metavar="PX", help="shorter edge (default: the model's size)"
    )
    parser.add_argument("--side-by-side", action="store_true", help="write original and reconstruction")
    add_overwrite(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a checkpoint, picture or folder that cannot be used. In a folder, pictures that
    cannot be read are named and left out; if none can, that is an error."""
    jobs = _jobs(arguments.source, arguments.target)
    check_pictures([target for _, target in jobs], arguments.overwrite, [source for source, _ in jobs])

    from tqdm import tqdm

    from common import dist
    from common.data.images import CorruptImage, open_image, to_pil
    from common.files import write_png
    from tokenizer.inference import load_model

    device = dist.start_process(arguments.device)
    model, _ = load_model(arguments.checkpoint, device)
    size = _checked_size(arguments.size, model)
    written, single = 0, not arguments.source.is_dir()
    for source, target in tqdm(jobs, unit="image", disable=single):
        try:
            pixels = fitted(open_image(source), size, model.config.output_patch_size, arguments.square)
        except CorruptImage as error:
            if single:
                raise UserError(f"{source}: {error.reason}") from error
            tqdm.write(f"left out: {source}: {error.reason}", file=sys.stderr)
            continue
        picture = to_pil(_rebuilt(model, pixels, arguments.side_by_side))
        write_png(target, picture)
        written += 1
    if not written:
        raise UserError(f"{arguments.source}: none of its {len(jobs)} pictures could be read")
    print(f"wrote {jobs[0][1] if single else f'{written} pictures to {arguments.target}'}")


def fitted(image: Image.Image, size: int, patch: int, square: bool) -> Tensor:
    """RGB picture -> uint8 (3, H, W) with sides that are multiples of `patch`, itself a divisor of `size`.

    Raises:
        CorruptImage: thinner than `MAX_ASPECT` to 1 (64 to 1 with `square`).
    """
    import numpy as np
    import torch
    from PIL import Image

    from common.data.images import CorruptImage, ImageTransform

    if square:
        return ImageTransform(size, crop="center", flip=False)(image, np.random.default_rng(0))
    short, long = sorted(image.size)
    if long > MAX_ASPECT * short:
        limit = f"sides over {MAX_ASPECT}:1; --square cuts to the centre"
        raise CorruptImage(f"{image.width} x {image.height} pixels, {limit}")
    width, height = (max(size, round(edge * size / short / patch) * patch) for edge in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1))


def _rebuilt(model: VQRAE, pixels: Tensor, side_by_side: bool) -> Tensor:
    """uint8 (3, H, W) -> its reconstruction, uint8 (3, H, W); with the original to the left, (3, H, 2 W)."""
    import torch

    from common.data.images import to_float, to_uint8
    from tokenizer.inference import reconstruct

    patch = model.config.output_patch_size
    grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
    rebuilt = to_uint8(reconstruct(model, to_float(pixels)[None].to(model.device), grid)[0][0]).cpu()
    return torch.cat([pixels, rebuilt], dim=2) if side_by_side else rebuilt


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pairs of a picture and the PNG to write for it."""
    if source.is_dir():
        from common.data.config import SourceConfig
        from common.data.folder import FolderSource

        if target.is_file():
            raise UserError(f"{target}: is a file; a folder of pictures needs a folder to write to")
        pictures = FolderSource(SourceConfig(kind="folder", path=str(source), unconditional=True))
        keys = [Path(pictures.read(index).key) for index in range(len(pictures))]
        # Pictures that differ in their extension only keep it, so that neither overwrites the other.
        taken = Counter(key.with_suffix("") for key in keys)
        names = [f"{key if taken[key.with_suffix('')] > 1 else key.with_suffix('')}.png" for key in keys]
        return [(source / key, target / name) for key, name in zip(keys, names, strict=True)]
    if not source.exists():
        raise UserError(f"{source}: no such picture or folder")
    if target.is_dir() or not target.suffix:
        target = target / f"{source.stem}.png"
    elif target.suffix.lower() != ".png":
        raise UserError(f"{target}: expected a name that ends in .png, or a folder")
    return [(source, target)]


def _checked_size(requested: int | None, model: VQRAE) -> int:
    patch = model.config.output_patch_size
    size = requested or model.config.image_size
    if size < 1 or size % patch:
        raise UserError(f"--size {size}: expected a multiple of the model's output patch, {patch} px")
    return size
