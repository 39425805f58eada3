"""How well a tokenizer reconstructs: PSNR, SSIM, distances such as LPIPS and rFID, and its codebook's use, over a set.

Both images are rounded (not truncated) to 8 bits first, as they would be if written to files. Every rank
keeps sums in float64 and integer counts, and they are added up once, in `compute`: a rank with a short last
batch, or with no image at all, neither waits nor weighs more than its images. SSIM and FID are torchmetrics'.

Legend: B images, h x w token grid, K codes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common import dist
from common.data.images import to_float, to_uint8
from common.metrics.code_usage import CodeUsage

PSNR_CEILING = 100.0
"""dB given to an image whose 8-bit reconstruction is identical, where the ratio is infinite and so would be
the mean. A single wrong step in one channel of a 256 px image is 101 dB."""

FID_SUMS = [
    f"{kind}_features_{part}" for kind in ("real", "fake") for part in ("sum", "cov_sum", "num_samples")
]
"""The state of torchmetrics' FID."""


class ReconstructionMetrics:
    """Scores of a set of images; the same object serves training's held-out evaluation and `reconstruct.py`.

    Args:
        codebook_size: K.
        device: where sums live; with NCCL, this rank's GPU.
        distances: name of a score -> a distance of pictures, (B, 3, H, W) in [0, 1], twice -> (B,): `lpips` is that of
            `tokenizer.perceptual.Lpips`.
        frechet: name of a score -> features of pictures, uint8 (B, 3, H, W) -> (B, F) with F as `num_features`, whose
            Frechet distance over the whole set it is: `rfid` is that of `tokenizer.pretrained.load_inception_fid`.
        ssim_range_2: also report `ssim_data_range_2`, the SSIM of [0, 1] images computed as though they
            spanned [-1, 1]. It is too high; some published numbers are of this kind.
    """

    def __init__(
        self,
        codebook_size: int,
        *,
        device: torch.device | str = "cpu",
        distances: Mapping[str, nn.Module] | None = None,
        frechet: Mapping[str, nn.Module] | None = None,
        ssim_range_2: bool = False,
    ) -> None:
        self.device, self.ssim_range_2 = torch.device(device), ssim_range_2
        self.distances = dict(distances or {})
        self.code_usage = CodeUsage(codebook_size, self.device)
        self.names = ["psnr", "ssim", *self.distances]
        self.names += ["ssim_data_range_2"] if ssim_range_2 else []
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=self.device)
        self.images = torch.zeros((), dtype=torch.int64, device=self.device)
        self.frechet = {name: _frechet(features, self.device) for name, features in (frechet or {}).items()}

    @torch.no_grad()
    def update(self, pixels: Tensor, reconstruction: Tensor, codes: Tensor | None) -> dict[str, Tensor]:
        """Add B images of this rank and return their own scores, name -> (B,) float64.

        Args:
            pixels, reconstruction: (B, 3, H, W), float in [0, 1] (what lies outside is clamped) or uint8.
            codes: (B, h, w) int64 in [0, K), or None for a model without a quantizer.
        """
        original, rebuilt = (x if x.dtype == torch.uint8 else to_uint8(x) for x in (pixels, reconstruction))
        scores = image_scores(original, rebuilt, self.ssim_range_2)
        for name, distance in self.distances.items():
            scores[name] = distance(to_float(rebuilt), to_float(original)).double()
        self.sums += torch.stack([scores[name].sum() for name in self.names])
        self.images += len(original)
        for distance in self.frechet.values():
            distance.update(original, real=True)
            distance.update(rebuilt, real=False)
        if codes is not None:
            self.code_usage.update(codes)
        return scores

    @torch.no_grad()
    def compute(self) -> dict[str, float | int]:
        """The scores of all ranks' images; every rank calls it and gets the same.

        Returns:
            images, psnr (dB), ssim, `distances`, `frechet` and, where codes were given, those of `CodeUsage.compute`.

        Raises:
            ValueError: no image at all, or fewer than two for a Frechet distance.
        """
        images = int(dist.sum_(self.images.clone()))
        if images == 0:
            raise ValueError("no image was scored")
        means = dist.sum_(self.sums.clone()) / images
        result: dict[str, float | int] = {"images": images}
        result |= dict(zip(self.names, means.tolist(), strict=True))
        for name, distance in self.frechet.items():
            if images < 2:
                raise ValueError(f"{name} needs at least two images")
            result[name] = _over_ranks(distance)
        code_usage = self.code_usage.compute()
        return result | (code_usage if code_usage["tokens_per_code"] else {})

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's sums and counts, on the CPU."""
        return {name: tensor.cpu().clone() for name, tensor in self._state().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from those of metrics built alike."""
        for name, tensor in self._state().items():
            tensor.copy_(state[name])

    def _state(self) -> dict[str, Tensor]:
        state = {"sums": self.sums, "images": self.images, "codes": self.code_usage.counts}
        for name, distance in self.frechet.items():
            state |= {f"{name}/{part}": getattr(distance, part) for part in FID_SUMS}
        return state


def image_scores(original: Tensor, rebuilt: Tensor, ssim_range_2: bool = False) -> dict[str, Tensor]:
    """PSNR in dB and SSIM of each image: uint8 (B, 3, H, W), twice -> (B,) float64; sides of at least 6 px.

    In float64, since SSIM subtracts squares of means from means of squares, and GPUs may convolve in TF32.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    a, b = rebuilt.double() / 255.0, original.double() / 255.0
    error = (a - b).square().mean(dim=(1, 2, 3))
    scores = {"psnr": (-10.0 * torch.log10(error)).clamp_max(PSNR_CEILING)}
    for name, data_range in (("ssim", 1.0), ("ssim_data_range_2", 2.0))[: 1 + ssim_range_2]:
        values = ssim(a, b, data_range=data_range, reduction="none")
        assert isinstance(values, Tensor)  # a pair only where the contrast is asked for too
        scores[name] = values.reshape(-1)
    return scores


def _frechet(features: nn.Module, device: torch.device) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=features, sync_on_compute=False, compute_with_cache=False).to(
        device
    )


def _over_ranks(distance: Any) -> float:
    """torchmetrics' distance on sums added up here: its own summing fails on a rank without images."""
    local = {part: getattr(distance, part) for part in FID_SUMS}
    try:
        for part in FID_SUMS:
            setattr(distance, part, dist.sum_(local[part].clone()))
        distance.orig_dtype = torch.float64  # else the distance is rounded to the features' float32
        with warnings.catch_warnings():  # a rank without images has not called `update`
            warnings.simplefilter("ignore")
            return float(distance.compute())
    finally:
        for part in FID_SUMS:
            setattr(distance, part, local[part])
