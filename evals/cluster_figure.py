"""Which pictures a tokenizer holds alike: clusters by continuous features and by codes, side by side (Figure 4).

    python -m evals.cluster_figure MODEL --images DIR --output OUT

The paper draws such clusters to show that continuous features group by meaning and codes by texture and colour. A
picture is one vector: the mean of its tokens' features, or the mean of its tokens' code vectors (rows of C W, a bag of
codes). Each dimension is standardised over the set, since a few dimensions of such encoders are far larger than all
others; then k-means. The paper does not say how its pictures were pooled: both choices are ours.

OUT receives clusters.png (a row for each cluster, largest first, pictures nearest to its centre first; left by
features, right by codes) and clusters.json (all members, in the same order).
"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING

from common.command import a_seed, add_batch_size, add_device, positive
from common.errors import UserError, run_cli
from common.files import write_json, write_png
from evals.command import build_parser as shared_parser
from evals.command import claim_output

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image
    from torch import Tensor

    from common.data.evaluation import EvaluationLoader
    from common.models.vqrae import VQRAE

RESTARTS = 10  # k-means ends in local optima; the best of these is kept
KINDS = ("features", "codes")


def build_parser() -> argparse.ArgumentParser:
    parser = shared_parser(
        "cluster_figure.py",
        __doc__,
        "VQRAE folder or hub id, or a generator's folder with vqrae/ in it",
        writes=("clusters.png", "clusters.json"),
    )
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="folder of pictures, searched recursively"
    )
    parser.add_argument("--clusters", type=positive, default=8, help="k of k-means (default: 8)")
    parser.add_argument("--shown", type=positive, default=8, help="pictures drawn of each (default: 8)")
    parser.add_argument("--seed", type=a_seed, default=0, help="of k-means (default: 0)")
    add_batch_size(parser)
    add_device(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    claim_output(args)

    import torch

    from common import dist
    from common.data.evaluation import evaluation_loader
    from common.models.weight_files import weights_sha256
    from tokenizer.inference import load_model

    torch.backends.cudnn.allow_tf32 = False  # it moves features, and with them codes
    device = dist.start_process(args.device)
    model, folder = load_model(args.model, device)
    size = model.config.grid[0] * model.encoder.patch_size
    loader = evaluation_loader(args.images, size, args.batch_size, limit=args.limit)
    if len(loader.images) < args.clusters:
        raise UserError(
            f"{args.images}: {len(loader.images)} pictures are too few for --clusters {args.clusters}"
        )
    keys, vectors = pooled(model, loader, device)
    clusters = {kind: cluster(vectors[kind], args.clusters, args.seed) for kind in KINDS}
    figure = draw(loader, size, clusters, args.shown)
    record = {
        "model": {"source": args.model, "weights_sha256": weights_sha256(folder)},
        "settings": {"images": args.images, "scored": len(keys), "k": args.clusters, "seed": args.seed},
        **{kind: [[keys[member] for member in members] for members in clusters[kind]] for kind in KINDS},
    }
    write_png(args.output / "clusters.png", figure)
    write_json(args.output / "clusters.json", record, indent=1)
    print(f"{len(keys)} pictures, clusters by features and by codes: {args.output / 'clusters.png'}")


def pooled(
    model: VQRAE, loader: EvaluationLoader, device: torch.device
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Keys of all pictures, and their vectors: `features` (pictures, D), `codes` (pictures, E)."""
    import numpy as np
    from tqdm import tqdm

    keys: list[str] = []
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for batch in tqdm(loader, unit="batch", desc="encode"):
        keys += batch["key"]
        for kind, vectors in zip(KINDS, describe(model, batch["pixels"].to(device)), strict=True):
            parts[kind].append(vectors.double().cpu().numpy())
    return keys, {kind: np.concatenate(part) for kind, part in parts.items()}


def describe(model: VQRAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (B, 3, H, W), as the encoder reads them -> mean feature (B, D), mean code vector (B, E)."""
    import torch

    from common.data.images import to_float

    with torch.inference_mode():
        features, quantizer_input = model.read(to_float(pixels))
        codes = model.quantizer(quantizer_input).codes
        return features.mean(dim=1), model.quantizer.lookup(codes).mean(dim=1)


def cluster(vectors: np.ndarray, k: int, seed: int) -> list[list[int]]:
    """k-means of (N, D) vectors, each dimension standardised first; at most k clusters, fewer where vectors coincide.

    Returns:
        Indices by cluster: the largest first, and within it those nearest to its centre.
    """
    import numpy as np
    from scipy.cluster.vq import kmeans2

    spread = vectors.std(axis=0)
    vectors = (vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    random = np.random.default_rng(seed)
    best, least = None, np.inf
    for _ in range(RESTARTS):
        with warnings.catch_warnings():  # of clusters without members
            warnings.simplefilter("ignore")
            centres, labels = kmeans2(vectors, k, minit="++", iter=50, rng=random)
        distances = np.square(vectors - centres[labels]).sum(axis=1)
        if best is None or distances.sum() < least:
            best, least = (labels, distances), distances.sum()
    assert best is not None
    labels, distances = best
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    members.sort(key=lambda part: (-len(part), part[0]))
    return [part[np.argsort(distances[part], kind="stable")].tolist() for part in members]


def draw(
    loader: EvaluationLoader, size: int, clusters: dict[str, list[list[int]]], shown: int
) -> Image.Image:
    """Two columns of rows: the first `shown` members of each cluster, by features and by codes."""
    import numpy as np

    from common.data.images import ImageTransform, open_image, to_pil
    from common.sheets import beside, contact_sheet

    transform = ImageTransform(size, "center", flip=False)
    sheets = []
    for kind in KINDS:
        rows = []
        for number, members in enumerate(clusters[kind], 1):
            pictures = [
                to_pil(transform(open_image(loader.source.read(at).data), np.random.default_rng(0)))
                for at in members[:shown]
            ]
            rows.append((f"{kind}, {number}: {len(members)} pictures", pictures))
        sheets.append(contact_sheet(rows))
    return beside(sheets)


if __name__ == "__main__":
    run_cli(main)
