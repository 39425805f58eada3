"""Reconstruct a set of pictures and score the result; `evals/reconstruction/run.py` is the command.

What is notable here: a score does not depend on the number of processes. Batches are cut from the whole set and dealt
to processes, so a picture's own scores are equal to the last bit; means are taken over all pictures in their order,
on numbers without rounding in between; codes are counted. Only rFID adds up sums of its own on each process, whose
order shows beyond its 8th digit, and is rounded to six decimals.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from common import dist
from common.data.images import to_float, to_uint8
from evals.reconstruction.examples import Examples, gather
from tokenizer.inference import reconstruct

if TYPE_CHECKING:
    from common.data.evaluation import EvaluationLoader
    from common.metrics.reconstruction import ReconstructionMetrics
    from common.models.vqrae import VQRAE
    from evals.reconstruction.progress import Progress

RFID_DECIMALS = 6
Row = dict[str, Any]
"""Of one picture: its index in the set, key, and scores."""


def score(
    model: VQRAE, metrics: ReconstructionMetrics, loader: EvaluationLoader, progress: Progress | None = None
) -> tuple[dict[str, float | int], list[Row], Examples]:
    """Scores of the whole set, its rows in order, and pictures to show; all ranks call it and get the same.

    Args:
        metrics: without any image yet.
        loader: this rank's whole batches (`preprocessing.open_pictures`).
        progress: where this rank's part is kept; None keeps nothing.
    """
    rows, examples = gather(*_score_own(model, metrics, loader, progress))
    scores = metrics.compute()
    for name in metrics.names:
        scores[name] = fmean(row[name] for row in rows)
    if "rfid" in scores:
        scores["rfid"] = round(scores["rfid"], RFID_DECIMALS)
    return scores, rows, examples


def _score_own(
    model: VQRAE, metrics: ReconstructionMetrics, loader: EvaluationLoader, progress: Progress | None
) -> tuple[list[Row], Examples]:
    rows, examples = progress.resume(metrics) if progress is not None else ([], Examples())
    done, total = len(rows), len(loader.images)  # whole batches
    places = iter(loader.images[done:])
    with tqdm(total=total, initial=done, unit="image", desc="reconstruct", disable=not dist.is_main()) as bar:
        for batch in replace(loader, start=done):
            pixels = batch["pixels"].to(metrics.device, non_blocking=True)
            rebuilt, codes = reconstruct(model, to_float(pixels))
            rebuilt = to_uint8(rebuilt)
            columns = {name: part.tolist() for name, part in metrics.update(pixels, rebuilt, codes).items()}
            for i, key in enumerate(batch["key"]):
                index, own = next(places), {name: values[i] for name, values in columns.items()}
                rows.append({"index": index, "key": key, **own})
                examples.add(index, own["psnr"], batch["pixels"][i], rebuilt[i].cpu())
            bar.update(len(batch["key"]))
            if progress is not None:
                progress.save(metrics, rows, examples)
    return rows, examples


def build_metrics(
    model: VQRAE,
    device: torch.device,
    *,
    ssim_range_2: bool,
    lpips: bool = True,
    lpips_weights: str | None = None,
    fid: bool = True,
    inception_weights: str | None = None,
) -> ReconstructionMetrics:
    """Metrics with the networks asked for, from files or downloads; errors for absent weights name the options."""
    from common.metrics.reconstruction import ReconstructionMetrics
    from tokenizer.perceptual import Lpips
    from tokenizer.pretrained import load_inception_fid, load_lpips

    distances, frechet = {}, {}
    if lpips:
        network = load_lpips(lpips_weights, "--lpips-weights (or --skip-lpips)")
        distances["lpips"] = Lpips(network).to(device)
    if fid:
        frechet["rfid"] = load_inception_fid(inception_weights, "--inception-weights (or --skip-fid)")
    return ReconstructionMetrics(
        model.config.codebook_size,
        device=device,
        distances=distances,
        frechet=frechet,
        ssim_range_2=ssim_range_2,
    )
