"""Where the codebook starts: feature statistics and first codes, taken from the training data once.

The paper is silent here. Measured at small scale, a random codebook leaves 96% of the codes unused, while codes
drawn from standardised features (by k-means or as a plain sample) use 95 to 97% from the first step on.

Legend: N tokens, D encoder width, E code width, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from common import dist
from common.data.images import to_float
from common.data.stream import training_loader
from common.errors import UserError
from common.models.quantizer import SimVQ, nearest_codes
from common.models.vqrae import VQRAE
from common.training.engine import autocast

if TYPE_CHECKING:
    from tokenizer.config import Start, TokenizerConfig


class FeatureStatistics:
    """Mean and standard deviation per channel, over all tokens of all ranks, in float64."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """What the quantizer reads, (B, N, D)."""
        flat = features.flatten(0, -2).double()
        self.sums += torch.stack([flat.sum(0), flat.square().sum(0)])
        self.tokens += flat.shape[0]

    def compute(self) -> tuple[Tensor, Tensor]:
        """(mean, std), float32 (D,); a constant channel gets std 1. The same on all ranks."""
        sums, tokens = dist.sum_(self.sums.clone()), dist.sum_(self.tokens.clone())
        mean, square = sums / tokens
        std = (square - mean.square()).clamp_min(0).sqrt()
        return mean.float(), torch.where(std > 1e-6, std, torch.ones_like(std)).float()


@torch.no_grad()
def start_codebook(quantizer: SimVQ, features: Tensor, start: Start, seed: int) -> None:
    """Set statistics-dependent C from a sample of features; equal on all ranks.

    Args:
        quantizer: its `feature_mean` and `feature_std` are already set, its W is the identity.
        features: this rank's sample of what the quantizer reads (n, D); ranks may bring different numbers.
        start: `kmeans` and `sample` take codes from the data; `normal` leaves C as it was drawn (rank 0's).

    Raises:
        ValueError: fewer tokens over all ranks than codes.
    """
    codebook = quantizer.codebook
    if start != "normal":
        points = torch.cat(dist.gather_objects(quantizer.embed(features).cpu()))
        if len(points) < len(codebook):
            raise ValueError(
                f"codebook_start.images: {len(points)} tokens are too few for {len(codebook)} codes"
            )
        if dist.is_main():
            generator = torch.Generator().manual_seed(seed)
            picked = points[torch.randperm(len(points), generator=generator)[: len(codebook)]].to(
                codebook.device
            )
            codebook.copy_(kmeans(points.to(codebook.device), picked) if start == "kmeans" else picked)
    dist.broadcast_(codebook)


@torch.no_grad()
def kmeans(points: Tensor, centers: Tensor, iterations: int = 10) -> Tensor:
    """Lloyd's iterations: points (N, E), starting centers (K, E) -> centers (K, E). A center that loses all its
    points moves to the point that is worst served."""
    for _ in range(iterations):
        codes = nearest_codes(points, centers)
        counts = torch.bincount(codes, minlength=len(centers))
        sums = torch.zeros_like(centers).index_add_(0, codes, points)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            distance = (points - centers[codes]).square().sum(-1)
            centers[empty] = points[distance.topk(len(empty)).indices]
    return centers


@torch.no_grad()
def start_from_data(model: VQRAE, config: TokenizerConfig, device: torch.device) -> None:
    """Measure the first `codebook_start.images` of the training stream, over all ranks, and set statistics and C.

    Raises:
        UserError: too few tokens for so many codes.
    """
    settings = config.model.codebook_start
    loader = training_loader(
        config.data, config.seed, dist.rank(), dist.world(), config.batch.micro_size, captions=False
    )
    rounds = -(-settings.images // (config.batch.micro_size * dist.world()))
    per_rank = -(-settings.tokens_per_code * config.model.codebook_size // dist.world())
    statistics = FeatureStatistics(model.encoder.width, device)
    generator = torch.Generator().manual_seed(config.seed + dist.rank())
    sample: list[Tensor] = []
    batches = tqdm(loader, total=rounds, desc="codebook start", unit="batch", disable=not dist.is_main())
    for batch, _ in zip(batches, range(rounds), strict=False):
        with autocast(config.engine.precision, device):
            features = model.read(model.encoder_pixels(to_float(batch["pixels"].to(device)))).quantizer_input
        statistics.update(features)
        flat = features.flatten(0, 1).float()
        share = min(len(flat), -(-per_rank // rounds))
        sample.append(flat[torch.randperm(len(flat), generator=generator)[:share].to(device)])
    quantizer = model.quantizer
    mean, std = statistics.compute()
    quantizer.feature_mean.copy_(mean)
    quantizer.feature_std.copy_(std)
    if not config.model.quantize:  # the statistics alone: the same autoencoder, without codes
        return
    try:
        start_codebook(quantizer, torch.cat(sample), settings.method, config.seed)
    except ValueError as error:
        raise UserError(f"model.{error}") from error
