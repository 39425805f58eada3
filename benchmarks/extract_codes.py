"""How fast pictures become shards of codes, and which share of the bare encoder's rate that is.

    python -m benchmarks.extract_codes                  # the paper's shape: VQRAE-InternViT at 512 px, 16k x 1536
    python -m benchmarks.extract_codes --shape small --images 256

The small shape gives the quantizer the same share of the work (8%), for machines on which the paper's takes half a
minute a picture. Random weights, and JPEGs of noise over smooth colours written for the purpose. Both rates are of one
process on one device, in turns: `encoder` puts pixels that are in memory already through the encoder alone;
`extraction` is what generation/extract_codes.py does, from JPEG files to a shard on disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import device_name
from common.command import described_parser
from common.data.config import SourceConfig
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from common.training.engine import autocast
from generation.code_encoder import CodeEncoder
from generation.codes.facts import CodeFacts
from generation.codes.jobs import SourceJobs
from generation.codes.leases import Leases
from generation.codes.worker import Worker
from generation.config import GenerationDataConfig

SHAPES = {
    "paper": {
        "encoder": {
            "model_type": "internvl_vision",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 448,
            "patch_size": 14,
            "attention_bias": True,
        },
        "codes": (16384, 1536, 16),
    },
    "small": {
        "encoder": {
            "model_type": "siglip_vision_model",
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "image_size": 128,
            "patch_size": 8,
        },
        "codes": (2048, 256, 8),
    },
}


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="paper")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="processes that decode")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16_autocast"), default="fp32")
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[arguments.shape]
    codes, width, patch = shape["codes"]
    torch.manual_seed(0)
    vqrae = VQRAE.from_encoder(build_encoder(shape["encoder"]), codes, width, patch).to(device)  # type: ignore[arg-type]
    encoder = CodeEncoder(vqrae, arguments.precision)
    side = vqrae.config.image_size
    batch = torch.rand(arguments.batch_size, 3, side, side, device=device)
    batches = arguments.images // arguments.batch_size
    print(
        f"{device_name()}; {arguments.shape}, {side} px, batches of {arguments.batch_size}, {arguments.precision}"
    )

    with tempfile.TemporaryDirectory() as scratch:
        source = _write_pictures(Path(scratch, "pictures"), batches * arguments.batch_size, side)
        bare: list[float] = []
        whole: list[float] = []
        for turn in range(arguments.rounds + 1):  # the first warms up
            start = time.perf_counter()
            for _ in range(batches):
                _encode(vqrae, batch, arguments.precision)
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            _extract(source, Path(scratch, f"codes_{turn}"), encoder, arguments)
            whole.append(time.perf_counter() - start)
    images = batches * arguments.batch_size
    rates = [images / min(seconds[1:]) for seconds in (bare, whole)]
    print(f"encoder      {rates[0]:8.2f} images/s")
    print(f"extraction   {rates[1]:8.2f} images/s, {100 * rates[1] / rates[0]:.0f}% of it")


@torch.no_grad()
def _encode(vqrae: VQRAE, pixels: torch.Tensor, precision: str) -> None:
    with autocast(precision, pixels.device):  # type: ignore[arg-type]
        read = vqrae.read(vqrae.encoder_pixels(pixels))
    read.quantizer_input[0, 0, 0].item()  # waits for the device


def _write_pictures(folder: Path, count: int, side: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            (side * 4 // 3, side), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(smooth).astype(int) + rng.integers(-12, 13, (side, side * 4 // 3, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=90)
    return folder


def _extract(pictures: Path, folder: Path, encoder: CodeEncoder, arguments: argparse.Namespace) -> None:
    stated = SourceConfig(kind="folder", path=str(pictures))
    config = encoder.vqrae.config
    facts = CodeFacts(
        vqrae_sha256="0" * 64,
        codebook_size=config.codebook_size,
        grid=config.grid,
        image_size=config.image_size,
        crop="center",
        precision=arguments.precision,
    )
    data = GenerationDataConfig(
        image_size=config.image_size,
        sources=(stated,),
        workers=arguments.workers,
        max_length=config.grid[0] * config.grid[1] + 3,
        prompt_dropout=0.0,
    )
    jobs = [SourceJobs(folder, stated, longest=arguments.images)]
    with Leases(folder / "leases") as leases:
        Worker(jobs, facts, encoder, data, arguments.batch_size, leases, shows=False).run()


if __name__ == "__main__":
    main()
