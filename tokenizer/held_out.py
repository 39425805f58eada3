"""The held-out set during training: scores over all ranks, and the picture people look at."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from common import dist
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
    model: VQRAE, config: TokenizerConfig, device: torch.device, distances: Distances
) -> dict[str, float]:
    """PSNR, SSIM, `distances`, usage, perplexity over `evaluation.images`; every image once over all ranks.

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
    with evaluating(model):
        for pixels in until_stopped(held_out_batches(config, device)):
            with autocast(config.engine.precision, device):
                output = model(pixels, quantize=config.model.quantize)
            metrics.update(pixels, output.reconstruction.float(), output.codes)
    with refusing(f"{config.evaluation.images}: evaluation.images", ValueError):
        return dict(metrics.compute())


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
        yield to_float(batch["pixels"].to(device, non_blocking=True))
