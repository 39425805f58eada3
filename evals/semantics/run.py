"""What a tokenizer keeps of meaning: linear probe, k nearest neighbours and zero-shot, before and after its training.

    bash evals/run_semantics.sh MODEL --before ENCODER --images imagenet/val

Before is ENCODER, the tower that training began from; after is the tokenizer's own. Both are read on continuous
features, the tokenizer on the vectors of its codes too. Pictures are split by --seed: on one half a probe is fitted and
neighbours are looked for, on the other both are scored; each picture counts once. Zero-shot takes a SigLIP checkpoint
with both towers (ENCODER itself if it is one, or --text-tower): features go through its own pooling head.

LABELLED is a folder with a folder for each class, or a world of the demo (a folder with val_scenes.jsonl), where shape
and colour of each object are told from the tokens over its box.

DIR receives results.json: accuracies with bootstrap intervals over pictures, what is gained or lost from before to
after (in pairs), and the accuracy of always saying the commonest label.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command import a_seed, add_batch_size, add_device, positive
from common.errors import UserError, run_cli
from evals import preflight
from evals.command import build_parser as shared_parser
from evals.command import claim_output

if TYPE_CHECKING:
    import numpy as np
    import torch

    from evals.semantics.labelled import Labelled
    from evals.semantics.zero_shot import TextTower

NEIGHBOURS = 20
FITTED = 0.5


def build_parser() -> argparse.ArgumentParser:
    parser = shared_parser(
        "run_semantics.sh", __doc__, "VQRAE folder, hub id or run, or a generator's folder with vqrae/ in it"
    )
    parser.add_argument("--images", required=True, type=Path, metavar="LABELLED", help="pictures with labels")
    parser.add_argument("--before", metavar="ENCODER", help="the tower before training: a folder or a hub id")
    parser.add_argument(
        "--text-tower", metavar="FOLDER", help="a SigLIP with both towers (default: ENCODER, if it is one)"
    )
    parser.add_argument(
        "--k", type=positive, default=NEIGHBOURS, help=f"neighbours that vote (default: {NEIGHBOURS})"
    )
    parser.add_argument("--seed", type=a_seed, default=0, help="of the split into halves (default: 0)")
    add_batch_size(parser)
    add_device(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    needed = [
        preflight.file(args.images, "the pictures", "a folder with a folder for each class, or a world")
    ]
    needed += [preflight.model(args.model)]
    needed += [preflight.model(args.before, "the encoder before", "--before")] if args.before else []
    needed += [preflight.model(args.text_tower, "the text tower", "--text-tower")] if args.text_tower else []
    preflight.require("semantics", needed)
    claim_output(args)

    import torch

    from common import dist
    from evals.semantics import scoring
    from evals.semantics.labelled import read_labelled

    torch.backends.cudnn.allow_tf32 = False  # it moves codes
    device = dist.start_process(args.device)
    started = time.time()
    labelled = read_labelled(args.images, args.limit)
    if len(labelled.images) < 2:
        raise UserError(f"{args.images}: expected two pictures or more, found {len(labelled.images)}")
    tower, left_out = open_tower(args, labelled, device)
    found, model = read_sources(args, labelled, device, tower)
    if dist.is_main():
        fitted = scoring.split(len(labelled.images), FITTED, args.seed)
        scored = scoring.scores(found, labelled, fitted, args.k, device, tower)
        report(args, labelled, fitted, scored, model, left_out, time.time() - started)


def open_tower(
    args: argparse.Namespace, labelled: Labelled, device: torch.device
) -> tuple[TextTower | None, list[str]]:
    """The text tower, if there is one to be asked, and lines about what is left out without it.

    Raises:
        UserError: --text-tower is none.
    """
    from common.models.weight_files import resolve_folder
    from evals.semantics.zero_shot import TextTower, has_both_towers

    if labelled.boxes is not None:
        return None, ["zero-shot: its pictures have several objects, none of them the picture's class"]
    source = args.text_tower or args.before
    if source is None:
        return None, ["zero-shot: --before or --text-tower names no SigLIP checkpoint with both towers"]
    folder = resolve_folder(source)
    if not args.text_tower and not has_both_towers(folder):
        return None, [f"zero-shot: {source} has no text tower; --text-tower takes a SigLIP with both"]
    return TextTower(folder, device), []


def read_sources(
    args: argparse.Namespace, labelled: Labelled, device: torch.device, tower: TextTower | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Vectors of all sources, and the models' facts for results.json.

    Raises:
        UserError: a model cannot be read, or ENCODER has another width than the tokenizer's encoder.
    """
    from common.models.vqrae_loading import load_tower, vqrae_folder
    from common.models.weight_files import resolve_folder, weights_sha256
    from evals.semantics import vectors
    from tokenizer.inference import load_model

    model, folder = load_model(args.model, device)
    facts = {"source": args.model, "weights_sha256": weights_sha256(folder)}
    found: dict[str, np.ndarray] = {}
    if args.before:
        encoder = load_tower(args.before).eval().requires_grad_(False).to(device)
        if encoder.width != model.encoder.width:
            raise UserError(
                f"--before {args.before}: its features are {encoder.width} wide, those of {args.model} "
                f"{model.encoder.width}: the tokenizer did not begin from it"
            )
        before = weights_sha256(vqrae_folder(resolve_folder(args.before)))
        facts |= {"before": args.before, "before_sha256": before}
        tokens = vectors.tokens_before(encoder)
        found |= vectors.vectors(tokens, labelled, encoder.image_size, device, args.batch_size, tower)
    size = model.config.grid[0] * model.encoder.patch_size
    found |= vectors.vectors(vectors.tokens_after(model), labelled, size, device, args.batch_size, tower)
    return found, facts


def report(
    args: argparse.Namespace,
    labelled: Labelled,
    fitted: np.ndarray,
    scored: dict[str, Any],
    model: dict[str, Any],
    left_out: list[str],
    seconds: float,
) -> None:
    """results.json, and the table."""
    from common import dist
    from evals.result_table import finish
    from evals.results import Results
    from evals.semantics import scoring
    from evals.semantics.neighbours import TEMPERATURE

    tested = int((~fitted).sum())
    gained = scoring.differences(scored)
    notes = [
        f"{stem} after less before: {change:+.4f} ({low:+.4f} to {high:+.4f})"
        for stem, (change, (low, high)) in gained.items()
    ]
    results = Results(
        benchmark="semantics",
        protocol=f"semantics, {'objects of a world' if labelled.boxes is not None else 'classes'}",
        scores={name: found.accuracy for name, found in scored.items()},
        expected=tested,
        scored=tested,
        partial=len(labelled.images) < labelled.found,
        settings={
            "images": str(args.images),
            "fitted_on": int(fitted.sum()),
            "k": args.k,
            "temperature": TEMPERATURE,
            "seed": args.seed,
            "batch_size": args.batch_size,
            "left_out": left_out,
        },
        model=model,
        seconds=round(seconds, 1),
        processes=dist.world(),
        details={
            "intervals": {name: found.interval for name, found in scored.items()},
            "after_less_before": {stem: [change, *interval] for stem, (change, interval) in gained.items()},
            "chance": {
                question: scoring.chance(labels, fitted) for question, labels in labelled.labels.items()
            },
        },
    )
    finish(args.output, results, [*notes, *(f"left out: {line}" for line in left_out)])


if __name__ == "__main__":
    run_cli(main)
