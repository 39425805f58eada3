"""Train the demo's "foundation model": a small SigLIP on the miniature world's pictures and descriptions.

    python -m scripts.demo.pretrain_encoder --world runs/demo/world --out runs/demo/encoder

Only the vision part is kept, as a plain `SiglipVisionModel` folder: the rest of the demo treats it as it would
treat a downloaded encoder. `pretraining.json` beside it says how well it learned: the share of held-out pictures
that find their own description among all, and what a linear probe reads from its features.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.command import a_seed, whole_number
from common.errors import UserError, run_cli
from scripts.demo.command import world_parser
from scripts.demo.contrastive import PIXEL_WEIGHT, build_model, retrieval_accuracy, train
from scripts.demo.contrastive_views import GRID
from scripts.demo.learning import has_bfloat16
from scripts.demo.probe import encode, fit_probe
from scripts.demo.world import read_world

if TYPE_CHECKING:
    from transformers import SiglipModel

FITTED_ON = 2000  # training images for the probe


def save_vision_part(model: SiglipModel, folder: Path) -> None:
    """A plain `SiglipVisionModel` folder with its image processor's configuration."""
    from common.models.vision_encoder import SiglipVisionEncoder

    encoder = SiglipVisionEncoder(model.config.vision_config)
    encoder.model.load_state_dict(model.vision_model.state_dict())
    encoder.save_pretrained(folder)


def build_parser() -> argparse.ArgumentParser:
    parser = world_parser(__doc__, "folder for the encoder")
    parser.add_argument(
        "--window-steps", type=whole_number(0), default=1400, help="steps on single objects (default 1400)"
    )
    parser.add_argument(
        "--steps", type=whole_number(0), default=200, help="steps on whole pictures (default 200)"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=a_seed, default=0)
    parser.add_argument(
        "--meaning-alone",
        action="store_true",
        help="leave out the term that reads pixels back from the features",
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="default: bfloat16 where the CPU has it"
    )
    return parser


def main() -> None:
    options = build_parser().parse_args()
    world, held_out = (read_world(options.world, split) for split in ("train", "val"))
    image_size = world.images.shape[-1]
    if image_size % GRID:
        raise UserError(f"--world: expected images whose side is divisible by {GRID}, got {image_size} px")
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    model = build_model(image_size)
    bf16 = options.precision == "bfloat16" or (options.precision is None and has_bfloat16())
    steps = (options.window_steps, options.steps)
    loss = train(
        model,
        world,
        steps=steps,
        lr=options.lr,
        seed=options.seed,
        bf16=bf16,
        pixel_weight=0.0 if options.meaning_alone else PIXEL_WEIGHT,
    )
    seconds = time.perf_counter() - start
    save_vision_part(model, options.out)

    def features(pixels: Tensor) -> Tensor:
        return model.vision_model(pixels * 2 - 1, output_hidden_states=True).hidden_states[-1]

    probe = fit_probe(encode(features, world.images[:FITTED_ON]), world.scenes[:FITTED_ON])
    accuracy = probe.accuracy(encode(features, held_out.images), held_out.scenes)
    retrieval = retrieval_accuracy(model, held_out)
    result = {
        "retrieval": retrieval,
        "retrieval_among": len(held_out.scenes),
        "probe": accuracy,
        "loss": loss,
        "window_steps": options.window_steps,
        "steps": options.steps,
        "meaning_alone": options.meaning_alone,
        "seed": options.seed,
        "precision": "bfloat16" if bf16 else "float32",
        "seconds": round(seconds, 1),
    }
    (options.out / "pretraining.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"encoder: {retrieval:.1%} of {len(held_out.scenes)} held-out pictures find their description; linear probe: "
        f"shape {accuracy['shape']:.1%}, color {accuracy['color']:.1%}; {seconds:.0f} s"
    )


if __name__ == "__main__":
    run_cli(main)
