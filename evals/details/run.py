"""What a tokenizer loses of details, in numbers: small text, thin lines, gratings, dense scenes, faces, photographs.

    bash evals/run_details.sh MODEL --images imagenet/val
    bash evals/run_details.sh runs/stage1 runs/stage2 --images DIR     curves of several tokenizers in one figure

The paper shows these failures (Figures 9 and 10: small text, dense scenes, faces). Here each is a curve over charts
that are made for it, of falling height, width or period, or of more and more shapes; the same is measured in the
charts themselves, which is the ceiling. Text is read by the shapes of the words and, from 64 px on, by OCR where it
is installed (`bash scripts/setup.sh ocr`). With --images, PSNR and SSIM by how much fine detail a picture has, and,
with --face-detector, which faces are still found.

Several MODELs are compared at one size. Called again, it goes on where it was; with another MODEL it measures that
alone.

DIR receives results.json (all curves), figure.png, rows.jsonl (every chart's own scores), pages/ (for each test the
pictures in which most is lost, the worst first) and measured/ (what a later call need not do again).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import a_seed, add_batch_size, add_device, positive, whole_number
from common.errors import UserError, run_cli
from evals import preflight
from evals.command import build_parser as shared_parser
from evals.command import claim_output

if TYPE_CHECKING:
    from common.models.vqrae import VQRAE
    from evals.details.charts import DetailTest

SMALLEST, LARGEST = 16, 4096
READERS = ("auto", "rapidocr", "tesseract", "none")


def build_parser() -> argparse.ArgumentParser:
    parser = shared_parser(
        "run_details.sh",
        __doc__,
        "VQRAE folders, hub ids or runs, or generators' folders with vqrae/ in them",
        several_models=True,
        writes=("figure.png", "rows.jsonl", "pages", "measured"),
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder of pictures, searched recursively, or .tar shards"
    )
    parser.add_argument(
        "--size",
        type=whole_number(SMALLEST, LARGEST),
        help="side of the charts in px (default: the models' output size)",
    )
    parser.add_argument(
        "--per-level", type=positive, default=48, metavar="N", help="charts of each level (default: 48)"
    )
    parser.add_argument(
        "--reader", choices=READERS, default="auto", help="which OCR reads text (default: auto)"
    )
    parser.add_argument(
        "--face-detector", metavar="FILE", help="YuNet as ONNX; without it, faces are left out"
    )
    parser.add_argument("--face-features", metavar="FILE", help="SFace as ONNX: how unlike faces become, too")
    parser.add_argument("--seed", type=a_seed, default=0, help="of the charts (default: 0)")
    add_batch_size(parser)
    add_device(parser)
    return parser


def needs(args: argparse.Namespace) -> list[preflight.Need]:
    """The models, the pictures, and the networks that look for faces."""
    from evals.details.faces import GET_DETECTOR

    needed = [preflight.model(source) for source in args.model]
    if args.images and not args.images.endswith(".tar"):
        needed.append(preflight.file(args.images, "the pictures", "any folder of them"))
    for given, option, how in (
        (args.face_detector, "--face-detector", GET_DETECTOR),
        (args.face_features, "--face-features", "face_recognition_sface_2021dec.onnx of OpenCV's model zoo"),
    ):
        if given:
            needed.append(preflight.file(given, option, how))
    return needed


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    names = labels(args.model)
    preflight.require("details", needs(args))
    if (args.face_detector or args.face_features) and not (args.images and args.face_detector):
        raise UserError("faces are looked for in --images by --face-detector: name both")
    claim_output(args)

    import torch
    from tqdm import tqdm

    from common import dist
    from common.models.weight_files import weights_sha256
    from evals.details.measuring import ORIGINAL, measure, rebuilder
    from evals.details.report import report
    from tokenizer.inference import load_model

    torch.backends.cudnn.allow_tf32 = False  # it moves codes
    device = dist.start_process(args.device)
    opened = [load_model(source) for source in args.model]
    side = args.size or common_size(dict(zip(names, (model for model, _ in opened), strict=True)))
    tests, left_out = open_tests(args, side)
    charts = {test.name: min(len(test), args.limit or len(test)) for test in tests}
    started = time.time()
    kept = args.output / "measured"
    sha256 = {name: weights_sha256(folder) for name, (_, folder) in zip(names, opened, strict=True)}
    rows, rebuilds = {}, {}
    own = -(-sum(charts.values()) // dist.world())
    with tqdm(total=own * (1 + len(names)), unit="chart", desc="measure", disable=not dist.is_main()) as bar:
        rows[ORIGINAL] = measure(tests, lambda pixels: pixels, kept, {"size": side}, bar, args.limit)
        for name, (model, _) in zip(names, opened, strict=True):
            rebuilds[name] = rebuilder(model.to(device), device, args.batch_size)
            facts = {
                "size": side,
                "weights_sha256": sha256[name],
                "batch": args.batch_size,
                "device": device.type,
            }
            rows[name] = measure(tests, rebuilds[name], kept, facts, bar, args.limit)
    if dist.is_main():
        report(args, tests, rows, rebuilds, sha256, side, left_out, charts, time.time() - started)


def open_tests(args: argparse.Namespace, side: int) -> tuple[list[DetailTest], list[str]]:
    """What is measured, and lines about what is left out and why.

    Raises:
        UserError: a reader that was named is not there; no pictures in --images; a detector that is none.
    """
    from common.data.config import SourceConfig
    from common.data.evaluation import evaluation_loader
    from evals.details.crowds import DenseScenes
    from evals.details.faces import GET_DETECTOR, SmallFaces, YuNet
    from evals.details.lines import Gratings, ThinLines
    from evals.details.photographs import Photographs
    from evals.details.words import SMALLEST_FOR_OCR, SmallText
    from evals.reading import open_reader

    left_out, reader = [], None
    if side < SMALLEST_FOR_OCR:
        left_out.append(
            f"text read by OCR: charts of {side} px are too small for it; words are read by their shapes"
        )
    elif args.reader != "none":
        try:
            reader = open_reader(args.reader)
        except UserError as error:
            if args.reader != "auto":
                raise
            left_out.append(f"text read by OCR: {error}")
    made = (side, args.seed, args.per_level)
    tests: list[DetailTest] = [
        SmallText(*made, reader),
        ThinLines(*made),
        Gratings(*made),
        DenseScenes(*made),
    ]
    if not args.images:
        return tests, [*left_out, "photographs and faces: --images names none"]
    is_tar = args.images.endswith(".tar")
    source = SourceConfig(kind="shards" if is_tar else "folder", path=args.images, unconditional=True)
    loader = evaluation_loader(source, side, args.batch_size)
    tests.append(Photographs(loader))
    if args.face_detector:
        tests.append(SmallFaces(loader, YuNet(args.face_detector, args.face_features)))
    else:
        left_out.append(f"faces: no package brings a detector; --face-detector takes {GET_DETECTOR}")
    return tests, left_out


def common_size(models: dict[str, VQRAE]) -> int:
    """The side of what all of them write.

    Raises:
        UserError: they write different ones.
    """
    sizes = {name: model.config.image_size for name, model in models.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(
            f"MODEL: they write pictures of different sides (px: {listed}); --size says which to compare at"
        )
    return next(iter(sizes.values()))


def labels(sources: list[str]) -> list[str]:
    """A short name for each model: its run's folder, or as it was given where two would be called alike.

    Raises:
        UserError: one of them is named twice.
    """
    if len(set(sources)) < len(sources):
        raise UserError("MODEL: the same one is named twice")
    short = [_short(Path(source)) for source in sources]
    return [source if short.count(name) > 1 else name for source, name in zip(sources, short, strict=True)]


def _short(path: Path) -> str:
    own = path.parent.name if path.name in ("model", "vqrae") and path.parent.name else path.name
    return own or str(path)


if __name__ == "__main__":
    run_cli(main)
