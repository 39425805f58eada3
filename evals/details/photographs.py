"""Photographs: PSNR and SSIM by how much fine detail there is in a picture.

Detail is the root mean square of what a Gaussian blur of 1 px takes away, in levels of 255: what lies above a quarter
of the sampling frequency, mostly. Pictures are put into as many quantiles of it as `curves.QUANTILES` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy import ndimage

from common.metrics.reconstruction import image_scores
from evals.details.charts import Chart, Seen

if TYPE_CHECKING:
    from common.data.evaluation import EvaluationLoader

BLUR = 1.0
"""px, standard deviation."""


class Photographs:
    """The pictures of a folder, as squares (shorter edge resized, centre crop)."""

    name, axis = "pictures", "fine detail of a picture, levels of 255"
    harder: Literal["smaller", "larger"] = "larger"
    measures: Mapping[str, str] = {"psnr": "PSNR of pictures, dB", "ssim": "SSIM of pictures"}
    levels = None

    def __init__(self, loader: EvaluationLoader) -> None:
        self.loader = loader
        self.identity: dict[str, Any] = {"pictures": loader.source.fingerprint(), "blur": BLUR}

    def __len__(self) -> int:
        return len(self.loader.images)

    def chart(self, index: int) -> Chart:
        """See `DetailTest.chart`.

        Raises:
            UserError: the picture cannot be read.
        """
        batch = self.loader.load([self.loader.images[index]])
        pixels = batch["pixels"][0].permute(1, 2, 0).numpy()
        return Chart(pixels, fine_detail(pixels), {"key": batch["key"][0]})

    def measure(self, chart: Chart, picture: np.ndarray) -> list[Seen]:
        """See `DetailTest.measure`."""
        original, rebuilt = (
            torch.from_numpy(part).permute(2, 0, 1)[None] for part in (chart.pixels, picture)
        )
        scores = {name: float(values[0]) for name, values in image_scores(original, rebuilt).items()}
        return [Seen(chart.level, scores, {"key": chart.facts["key"]})]


def fine_detail(pixels: np.ndarray) -> float:
    """The root mean square, over pixels and channels (S, S, 3), of what a blur takes away."""
    floating = pixels.astype(np.float64)
    return float(np.sqrt(np.mean((floating - ndimage.gaussian_filter(floating, (BLUR, BLUR, 0))) ** 2)))
