"""Reconstruct a folder of pictures and score the result.

    python tokenizer/reconstruct.py MODEL --images DIR --output OUT
    torchrun --nproc-per-node 8 tokenizer/reconstruct.py MODEL --images DIR --output OUT

Two named protocols. `titok`: shorter edge resized (bicubic, antialiased) to --size, centre crop. `squash`:
both sides resized to --size without a crop, as some published numbers were made; adds `ssim_data_range_2`. In
both, the encoder sees that square resized to its own input size, the decoder's output is resized back to
--size, and both pictures are rounded to 8 bits. Under `torchrun` every picture is scored exactly once.

OUT receives results.json (scores and all that is needed to repeat them), per_image.jsonl, reconstructions.png
(the first pictures, original | reconstruction) and worst.png (those of lowest PSNR).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run_cli

if TYPE_CHECKING:
    import torch

    from common.data.stream import EvaluationLoader
    from common.models.vqrae import VQRAE
    from tokenizer.reconstruction_metrics import ReconstructionMetrics
    from tokenizer.reconstruction_report import Examples


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reconstruct.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", metavar="MODEL", help="VQRAE folder or hub id, or a generator's folder with vqrae/ in it"
    )
    parser.add_argument(
        "--images",
        required=True,
        metavar="DIR",
        help="folder of pictures, searched recursively, or .tar shards",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--size", type=int, help="side of the scored squares in px (default: the model's output size)"
    )
    parser.add_argument("--protocol", choices=("titok", "squash"), default="titok")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="pictures per process and step (default: 16)"
    )
    parser.add_argument("--workers", type=int, default=2, help="loading processes per process (default: 2)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="score only the first N pictures; marked partial"
    )
    parser.add_argument("--skip-fid", action="store_true", help="leave rFID out")
    parser.add_argument("--skip-lpips", action="store_true", help="leave LPIPS out")
    parser.add_argument(
        "--inception-weights", metavar="FILE", help="FID's Inception (default: torch-fidelity's download)"
    )
    parser.add_argument(
        "--lpips-weights", metavar="FILE", help="torchvision's VGG16 (default: its own download)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    for name in ("size", "batch_size", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(args, name)}")

    import torch

    from common.models.weight_files import weights_sha256
    from common.training import dist
    from common.training.run import versions
    from tokenizer import protocols
    from tokenizer import reconstruction_report as report
    from tokenizer.inference import load_model, start_process

    # Convolutions in TF32 move patch embeddings, and with them codes and Inception features.
    torch.backends.cudnn.allow_tf32 = False
    device = start_process(args.device)
    model, folder = load_model(args.model, device)
    size = args.size or model.config.image_size
    loader = protocols.open_pictures(
        args.images, args.protocol, size, args.batch_size, dist.rank(), dist.world(), args.workers, args.limit
    )
    count = min(len(loader.source), args.limit or len(loader.source))
    if count < 2 and not args.skip_fid:
        raise UserError(f"{args.images}: rFID needs at least two pictures, found {count}; set --skip-fid")
    metrics = build_metrics(model, args, device)

    started = time.time()
    rows, examples = score(model, metrics, loader)
    scores = metrics.compute()
    rows, examples = report.gather(rows, examples)
    if dist.is_main():
        results = {
            "scores": scores,
            "partial": count < len(loader.source),
            "images": {"source": args.images, "found": len(loader.source), "scored": scores["images"]},
            "protocol": protocols.describe(
                args.protocol, size, model, not args.skip_lpips, not args.skip_fid
            ),
            "model": {"source": args.model, "weights_sha256": weights_sha256(folder)},
            "run": {
                "processes": dist.world(),
                "device": str(device),
                "seconds": round(time.time() - started, 1),
            },
            "versions": versions(report.PACKAGES),
        }
        report.write(args.output, results, rows, examples)
        report.print_table(results, args.output)


def score(
    model: VQRAE, metrics: ReconstructionMetrics, loader: EvaluationLoader
) -> tuple[list[dict[str, Any]], Examples]:
    """Reconstruct and score this rank's pictures; returns rows of per_image.jsonl and pictures to show."""
    from tqdm import tqdm

    from common.data.images import to_float, to_uint8
    from common.training import dist
    from tokenizer.inference import reconstruct
    from tokenizer.reconstruction_report import Examples

    rows: list[dict[str, Any]] = []
    examples = Examples()
    places = iter(loader.images)
    with tqdm(total=len(loader.images), unit="image", desc="reconstruct", disable=not dist.is_main()) as bar:
        for batch in loader:
            pixels = batch["pixels"].to(metrics.device)
            rebuilt, codes = reconstruct(model, to_float(pixels))
            rebuilt = to_uint8(rebuilt)
            scores = metrics.update(pixels, rebuilt, codes)
            columns = {name: values.tolist() for name, values in scores.items()}
            for i, key in enumerate(batch["key"]):
                index, own = next(places), {name: values[i] for name, values in columns.items()}
                rows.append({"index": index, "key": key, **own})
                examples.add(index, own["psnr"], batch["pixels"][i], rebuilt[i].cpu())
            bar.update(len(batch["key"]))
    return rows, examples


def build_metrics(model: VQRAE, args: argparse.Namespace, device: torch.device) -> ReconstructionMetrics:
    """Metrics with the networks that the options ask for; errors for absent weights name the options."""
    from tokenizer.perceptual import Lpips
    from tokenizer.pretrained import load_inception_fid, load_lpips
    from tokenizer.reconstruction_metrics import ReconstructionMetrics

    lpips = inception = None
    if not args.skip_lpips:
        lpips = Lpips(load_lpips(args.lpips_weights, "--lpips-weights (or --skip-lpips)")).to(device)
    if not args.skip_fid:
        inception = load_inception_fid(args.inception_weights, "--inception-weights (or --skip-fid)")
    return ReconstructionMetrics(
        model.config.codebook_size,
        device=device,
        lpips=lpips,
        inception=inception,
        ssim_range_2=args.protocol == "squash",
    )


if __name__ == "__main__":
    run_cli(main)
