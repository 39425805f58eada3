"""Score a tokenizer's reconstructions: PSNR, SSIM, LPIPS, rFID, codebook usage and perplexity.

    bash evals/run_reconstruction.sh MODEL --images imagenet/val --size 256
    GPUS=8 bash evals/run_reconstruction.sh MODEL --images imagenet/val --size 256

Two named protocols. `titok`: shorter edge resized (bicubic, antialiased) to --size, centre crop. `squash`: both sides
resized to --size without a crop, as some published numbers were made; adds `ssim_data_range_2`. In both, the encoder
sees that square resized to its own input size, the decoder's output is resized back to --size, and both pictures are
rounded to 8 bits. Every picture is scored exactly once over all processes, and the scores do not depend on their
number.

Called again after an interruption, by as many processes, it goes on where it was.

DIR receives results.json, per_image.jsonl, reconstructions.png (the first pictures, original | reconstruction) and
worst.png (the eight of lowest PSNR).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common.command import add_batch_size, add_device, whole_number
from common.errors import UserError, run_cli
from evals import preflight
from evals.command import build_parser as shared_parser
from evals.command import claim_output

VGG_FILE = "vgg16-397923af.pth"
VGG_ADDRESS = f"https://download.pytorch.org/models/{VGG_FILE}"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
SMALLEST = 16
"""Side of a square, px: the window of SSIM is 11 wide, and LPIPS' network halves a side four times."""


def build_parser() -> argparse.ArgumentParser:
    parser = shared_parser(
        "run_reconstruction.sh",
        __doc__,
        "VQRAE folder or hub id, or a generator's folder with vqrae/ in it",
        writes=("per_image.jsonl", "reconstructions.png", "worst.png", "progress"),
    )
    parser.add_argument(
        "--images",
        required=True,
        metavar="DIR",
        help="folder of pictures, searched recursively, or .tar shards",
    )
    parser.add_argument(
        "--size",
        type=whole_number(SMALLEST, 2**14),
        help="side of the scored squares in px (default: the model's output size)",
    )
    parser.add_argument("--protocol", choices=("titok", "squash"), default="titok")
    add_batch_size(parser)
    parser.add_argument(
        "--workers", type=whole_number(0, 256), default=2, help="loading processes per process (default: 2)"
    )
    parser.add_argument("--skip-fid", action="store_true", help="leave rFID out")
    parser.add_argument("--skip-lpips", action="store_true", help="leave LPIPS out")
    parser.add_argument(
        "--inception-weights", metavar="FILE", help="FID's Inception (default: torch-fidelity's download)"
    )
    parser.add_argument(
        "--lpips-weights", metavar="FILE", help="torchvision's VGG16 (default: its own download)"
    )
    add_device(parser)
    return parser


def needs(args: argparse.Namespace) -> list[preflight.Need]:
    """The pictures, the model, and the networks that scores look through."""
    needed = []
    if not args.images.endswith(".tar"):  # a pattern of shards is expanded, and missed, by its reader
        needed.append(
            preflight.file(args.images, "the pictures", "ImageNet-1K's validation set, or any folder")
        )
    needed.append(preflight.model(args.model))
    for skip, given, option, score, address in (
        (args.skip_lpips, args.lpips_weights, "lpips-weights", "LPIPS", VGG_ADDRESS),
        (args.skip_fid, args.inception_weights, "inception-weights", "FID", INCEPTION_ADDRESS),
    ):
        what = f"the network of {score}"
        how = f"then set --{option} FILE; or leave the score out with --skip-{score.lower()}"
        if given and not skip:
            needed.append(preflight.file(given, what, how))
        elif not skip:
            needed.append(preflight.torch_hub_file(address, what, how))
    return needed


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    preflight.require("reconstruction", needs(args))
    claim_output(args)

    import torch

    from common import dist
    from common.models.weight_files import weights_sha256
    from evals.reconstruction import preprocessing, score
    from evals.reconstruction.progress import Progress
    from evals.reconstruction.report import report
    from tokenizer.inference import load_model

    # Convolutions in TF32 move patch embeddings, and with them codes and Inception features.
    torch.backends.cudnn.allow_tf32 = False
    device = dist.start_process(args.device)
    model, folder = load_model(args.model, device)
    size = args.size or model.config.image_size
    loader = preprocessing.open_pictures(
        args.images, args.protocol, size, args.batch_size, dist.rank(), dist.world(), args.workers, args.limit
    )
    found = len(loader.source)
    expected = min(found, args.limit or found)
    if expected < 2 and not args.skip_fid:
        raise UserError(f"{args.images}: rFID needs at least two pictures, found {expected}; set --skip-fid")
    metrics = score.build_metrics(
        model,
        device,
        ssim_range_2=args.protocol == "squash",
        lpips=not args.skip_lpips,
        lpips_weights=args.lpips_weights,
        fid=not args.skip_fid,
        inception_weights=args.inception_weights,
    )

    started = time.time()
    protocol = preprocessing.describe(args.protocol, size, model, not args.skip_lpips, not args.skip_fid)
    sha256 = weights_sha256(folder)
    facts = {
        **{name: str(value) for name, value in protocol.items()},
        "images": [str(Path(args.images).resolve()), loader.source.fingerprint(), found, expected],
        "weights_sha256": sha256,
        "place": [dist.rank(), dist.world(), args.batch_size],
    }
    progress = Progress(args.output / "progress" / f"{dist.rank():05d}.pt", facts)
    scored = score.score(model, metrics, loader, progress)
    if dist.is_main():
        options = {"images": args.images, "batch_size": args.batch_size, "device": str(device)}
        report(
            args.output,
            scored,
            found=found,
            expected=expected,
            settings={**protocol, **options},
            model={"source": args.model, "weights_sha256": sha256},
            encoder=model.encoder.model_type,
            seconds=time.time() - started,
        )
    progress.remove()


if __name__ == "__main__":
    run_cli(main)
