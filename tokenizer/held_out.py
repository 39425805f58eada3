"""The held-out set during training: scores over all ranks, and the picture people look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import Tensor

from common import dist
from common.data.corrupt import CorruptCounter
from common.data.evaluation import evaluation_loader
from common.data.images import to_float, to_pil
from common.errors import refusing
from common.metrics.reconstruction import ReconstructionMetrics
from common.models.vqrae import VQRAE
from common.sheets import pairs_sheet
from common.training.engine import autocast
from common.training.modes import evaluating
from common.training.stop import until_stopped
from tokenizer.config import TokenizerConfig
from tokenizer.distances import Distances


@torch.no_grad()
def evaluate(
    model: VQRAE,
    config: TokenizerConfig,
    device: torch.device,
    distances: Distances,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """PSNR, SSIM, `distances`, usage, perplexity over `evaluation.images`; every image once over all ranks.

    What cannot be read is left out: its number is `skipped`, where there is any, and a line to `say` names it. That
    too much of it is so was found at the start; a disk that fails in the middle of a run does not end it.

    Raises:
        UserError: the images are too few to be measured so.
        StoppedEarly: on all ranks, if one of them was asked to stop the run.
    """
    metrics = ReconstructionMetrics(
        config.model.codebook_size,
        device=device,
        distances=distances.of_pictures,
        frechet=distances.of_sets,
    )
    unread = CorruptCounter(1.0, what="held-out images")
    with evaluating(model):
        for pixels in until_stopped(held_out_batches(config, device, unread)):
            with autocast(config.engine.precision, device):
                output = model(pixels, quantize=config.model.quantize)
            metrics.update(pixels, output.reconstruction.float(), output.codes)
    skipped, told = unread.check_together()
    if skipped:
        say(told)
    with refusing(f"{config.evaluation.images}: evaluation.images", ValueError):
        return dict(metrics.compute()) | ({"skipped": skipped} if skipped else {})


@torch.no_grad()
def reconstruction_grid(model: VQRAE, pixels: Tensor, config: TokenizerConfig) -> Image.Image:
    """Pairs original | reconstruction of (B, 3, H, W), four pairs a row; small pictures are enlarged."""
    with evaluating(model), autocast(config.engine.precision, pixels.device):
        rebuilt = model(pixels, quantize=config.model.quantize).reconstruction.float()
    return pairs_sheet([(to_pil(left), to_pil(right)) for left, right in zip(pixels, rebuilt, strict=True)])


def first_images(config: TokenizerConfig, device: torch.device, count: int = 16) -> Tensor | None:
    """The first pictures of the held-out set, on rank 0; the same ones at every step of a run."""
    if not dist.is_main() or config.evaluation.images is None:
        return None
    images, size = config.evaluation.images, config.data.image_size
    pixels = next(iter(evaluation_loader(images, size, count, limit=count, skip_corrupt=True)))["pixels"]
    return to_float(pixels.to(device)) if len(pixels) else None


def held_out_batches(
    config: TokenizerConfig, device: torch.device, unread: CorruptCounter
) -> Iterator[Tensor]:
    """This rank's share of the held-out set, float (B, 3, S, S) in [0, 1]; counts into `unread` what it lacks."""
    assert config.evaluation.images is not None
    loader = evaluation_loader(
        config.evaluation.images,
        config.data.image_size,
        config.batch.micro_size,
        dist.rank(),
        dist.world(),
        limit=config.evaluation.limit,
        skip_corrupt=True,
        max_pixels=config.data.max_pixels,
    )
    for batch in loader:
        unread.add(batch["skipped"], len(batch["key"]) + len(batch["skipped"]))
        if batch["key"]:
            yield to_float(batch["pixels"].to(device, non_blocking=True))
