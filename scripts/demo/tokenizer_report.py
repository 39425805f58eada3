"""What the miniature tokenizer reached on held-out scenes.

    python -m scripts.demo.tokenizer_report --demo runs/demo

Compares stage 1, stage 1 continued for as long as stage 2 took, and stage 2: PSNR, SSIM, codebook usage, the
share of true scenes that the exact detector still recognises after reconstruction, and a linear probe fitted on
the frozen encoder's features and applied, unchanged, to stage 2's. Writes the section `tokenizer` of
summary.json and reconstructions.png (original, stage 1, stage 2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.images import to_float, to_pil
from common.errors import run_cli
from common.metrics.reconstruction import ReconstructionMetrics
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae
from common.sheets import contact_sheet
from scripts.demo.command import demo_parser
from scripts.demo.detected import detected_share
from scripts.demo.probe import encode, fit_probe
from scripts.demo.summary import merge
from scripts.demo.world import World, read_world
from tokenizer.inference import reconstruct

FITTED_ON = 2000  # training images for the probe
SHOWN = 12


def measure(model: VQRAE, world: World) -> tuple[dict[str, float], Tensor]:
    """Scores of a model on a split, and its reconstructions (B, 3, S, S)."""
    metrics = ReconstructionMetrics(model.config.codebook_size)
    rebuilt = []
    for pixels in to_float(world.images).split(100):
        pictures, codes = reconstruct(model, pixels)
        metrics.update(pixels, pictures, codes)
        rebuilt.append(pictures)
    pictures = torch.cat(rebuilt)
    return {**metrics.compute(), "detected": detected_share(world.scenes, pictures)}, pictures


def main() -> None:
    demo: Path = demo_parser(__doc__).parse_args().demo
    train, held_out = (read_world(demo / "world", split) for split in ("train", "val"))

    models, scores, pictures = {}, {}, {"original": to_float(held_out.images[:SHOWN])}
    for stage in ("stage1", "stage1_continued", "stage2"):
        models[stage] = load_vqrae(str(demo / f"tokenizer_{stage}" / "model"))[0].eval()
        scores[stage], rebuilt = measure(models[stage], held_out)
        pictures[stage.replace("_", " ")] = rebuilt[:SHOWN]

    # Stage 1 leaves the encoder as it was, so its features are those of the frozen original.
    probe = fit_probe(encode(models["stage1"].encoder, train.images[:FITTED_ON]), train.scenes[:FITTED_ON])
    accuracy = {
        stage: probe.accuracy(encode(models[stage].encoder, held_out.images), held_out.scenes)
        for stage in ("stage1", "stage2")
    }
    final = models["stage2"]
    section: dict[str, Any] = {
        "psnr_stage1": scores["stage1"]["psnr"],
        "psnr_stage1_continued": scores["stage1_continued"]["psnr"],
        "psnr_stage2": scores["stage2"]["psnr"],
        "ssim_stage2": scores["stage2"]["ssim"],
        "usage": scores["stage2"]["usage"],
        "perplexity": scores["stage2"]["perplexity"],
        "codebook_size": final.config.codebook_size,
        "code_dim": final.config.codebook_dim,
        "encoder_width": final.encoder.width,
        "probe_frozen": accuracy["stage1"]["mean"],
        "probe_stage2": accuracy["stage2"]["mean"],
        "probe_shape": [accuracy["stage1"]["shape"], accuracy["stage2"]["shape"]],
        "probe_color": [accuracy["stage1"]["color"], accuracy["stage2"]["color"]],
        "detected_stage1": scores["stage1"]["detected"],
        "detected": scores["stage2"]["detected"],
        "detected_originals": detected_share(held_out.scenes, to_float(held_out.images)),
    }
    merge(demo / "summary.json", "tokenizer", section)
    rows = [(name, [to_pil(picture) for picture in shown]) for name, shown in pictures.items()]
    contact_sheet(rows).save(demo / "reconstructions.png")
    print(f"pictures: {demo / 'reconstructions.png'}")


if __name__ == "__main__":
    run_cli(main)
