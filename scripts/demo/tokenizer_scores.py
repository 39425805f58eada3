"""What tokenizers of the miniature world reach on its held-out scenes, as JSON.

    python -m scripts.demo.tokenizer_scores --world runs/demo/world MODEL [MODEL ...]

For each VQRAE folder PSNR, SSIM, use of the codes, the share of true scenes that the exact detector recognises after
reconstruction (`detected`), and two linear probes for shape and colour, fitted on scenes of the training split: on the
features (`probe_features`) and on the vectors of the codes (`probe_codes`), which is all that a generator knows. The
last line is a list with one mapping for each folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common.command import described_parser
from common.errors import run_cli
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae
from common.models.weight_files import state_sha256
from scripts.demo.probe import encode, fit_probe
from scripts.demo.tokenizer_report import FITTED_ON, measure
from scripts.demo.world import World, read_world


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="VQRAE folders")
    parser.add_argument("--world", type=Path, required=True, help="folder written by make_world")
    options = parser.parse_args()
    train, held_out = (read_world(options.world, split) for split in ("train", "val"))
    of_features: dict[str, float] = {}  # stage 1 leaves the encoder as it was, so that many share one
    found = []
    for source in options.models:
        model = load_vqrae(source)[0].eval().requires_grad_(False)
        scores, _ = measure(model, held_out)
        encoder = state_sha256(model.encoder.state_dict())
        if encoder not in of_features:
            of_features[encoder] = probed(model.encode_features, train, held_out)
        found.append(
            {
                **scores,
                "probe_features": of_features[encoder],
                "probe_codes": probed(vectors_of(model), train, held_out),
            }
        )
    print(json.dumps(found))


def vectors_of(model: VQRAE) -> Callable[[Tensor], Tensor]:
    """Pixels in [0, 1] -> the vectors of their codes (B, N, E)."""
    return lambda pixels: model.quantizer.lookup(model.encode(pixels).codes.flatten(1))


def probed(encoder: Callable[[Tensor], Tensor], train: World, held_out: World) -> float:
    """Accuracy of a probe on what `encoder` makes of held-out pictures, the mean of shape and colour."""
    with torch.inference_mode():
        fitted = encode(encoder, train.images[:FITTED_ON]).clone()
        asked = encode(encoder, held_out.images).clone()
    return fit_probe(fitted, train.scenes[:FITTED_ON]).accuracy(asked, held_out.scenes)["mean"]


if __name__ == "__main__":
    run_cli(main)
