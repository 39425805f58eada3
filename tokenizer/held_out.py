"""The held-out set during training: scores over all ranks, and the picture people look at."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from common import dist
from common.data.evaluation import evaluation_loader
from common.data.images import to_float, to_pil
from common.metrics.reconstruction import ReconstructionMetrics
from common.models.vqrae import VQRAE
from common.training.engine import autocast
from tokenizer.config import TokenizerConfig


@torch.no_grad()
def evaluate(model: VQRAE, config: TokenizerConfig, device: torch.device) -> dict[str, float]:
    """PSNR, SSIM, usage, perplexity over `evaluation.images`; every image once over all ranks."""
    metrics = ReconstructionMetrics(config.model.codebook_size, device=device)
    model.eval()
    for pixels in held_out_batches(config, device):
        with autocast(config.engine.precision, device):
            output = model(pixels, quantize=config.model.quantize)
        metrics.update(pixels, output.reconstruction.float(), output.codes)
    model.train()
    return dict(metrics.compute())


@torch.no_grad()
def reconstruction_grid(model: VQRAE, pixels: Tensor, config: TokenizerConfig) -> Image.Image:
    """Pairs original | reconstruction of (B, 3, H, W), four pairs a row; small pictures are enlarged."""
    model.eval()
    with autocast(config.engine.precision, pixels.device):
        rebuilt = model(pixels, quantize=config.model.quantize).reconstruction.float()
    model.train()
    return pairs_grid(pixels, rebuilt)


def pairs_grid(originals: Tensor, rebuilt: Tensor, pairs_per_row: int = 4, gap: int = 4) -> Image.Image:
    """(B, 3, H, W) in [0, 1], twice -> one picture."""
    height, width = originals.shape[-2:]
    scale = max(1, 96 // height)
    height, width = height * scale, width * scale
    rows = -(-len(originals) // pairs_per_row)
    pair = 2 * width + gap
    sheet = Image.new("RGB", (pairs_per_row * (pair + 3 * gap), rows * (height + gap)), "white")
    for index, (left, right) in enumerate(zip(originals.cpu(), rebuilt.cpu(), strict=True)):
        row, column = divmod(index, pairs_per_row)
        x, y = column * (pair + 3 * gap), row * (height + gap)
        for offset, image in ((0, left), (width + gap, right)):
            sheet.paste(to_pil(image).resize((width, height), Image.Resampling.NEAREST), (x + offset, y))
    return sheet


def rows_sheet(rows: dict[str, Tensor], gap: int = 4, margin: int = 132) -> Image.Image:
    """Named rows of (B, 3, S, S) pictures in [0, 1], one column per picture."""
    first = next(iter(rows.values()))
    side = first.shape[-1] * max(1, 96 // first.shape[-1])
    page = Image.new("RGB", (margin + len(first) * (side + gap), len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(page)
    for y, (name, pictures) in enumerate(rows.items()):
        draw.text((6, y * (side + gap) + side // 2 - 8), name, fill="black", font_size=14)
        for x, picture in enumerate(pictures):
            tile = to_pil(picture).resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (margin + x * (side + gap), y * (side + gap)))
    return page


def first_images(config: TokenizerConfig, device: torch.device, count: int = 16) -> Tensor | None:
    """The first pictures of the held-out set, on rank 0; the same ones at every step of a run."""
    if not dist.is_main() or config.evaluation.images is None:
        return None
    loader = evaluation_loader(config.evaluation.images, config.data.image_size, count, 0, 1, limit=count)
    return to_float(next(iter(loader))["pixels"].to(device))


def held_out_batches(config: TokenizerConfig, device: torch.device) -> Iterator[Tensor]:
    """This rank's share of the held-out set, float (B, 3, S, S) in [0, 1]."""
    assert config.evaluation.images is not None
    loader = evaluation_loader(
        config.evaluation.images,
        config.data.image_size,
        config.batch.micro_size,
        dist.rank(),
        dist.world(),
        limit=config.evaluation.limit,
    )
    for batch in loader:
        yield to_float(batch["pixels"].to(device))
