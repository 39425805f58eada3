"""GenEval: do pictures show the objects, numbers, colours and places that their prompts ask for?

    bash evals/run_geneval.sh MODEL                draw four pictures of each prompt, and judge them
    bash evals/run_geneval.sh --pictures PICTURES  judge pictures that are there already
    GPUS=8 bash evals/run_geneval.sh MODEL         the same scores, sooner

The rules are the original's to the letter (djghosh13/geneval); its environment is not needed. Detectors:

    mask2former  the original's, of mmdetection: downloaded once and converted; offline, give the file as --detector
    world        exact, for the shapes of the miniature world of scripts/demo
    PATH         a checkpoint of mmdetection's (.pth), a Mask2Former of transformers (folder or hub id), or the folder
                 of a judge of the miniature world (scripts/demo/held_out_judge.py)

The last two bear their name in the protocol, and are not compared with the paper. Colours are CLIP ViT-L/14's.

--limit takes prompts at even distances from the whole set. DIR receives pictures/ (in the original's layout),
detections/ (so that a call that was stopped goes on), results.json, verdicts.jsonl (a line a picture, with the
original's fields) and page.html (all pictures, with what was found in them and why they failed; with thumbnails/).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import positive
from common.errors import run_cli
from evals import drawing
from evals.command import claim_output, spread
from evals.detectors.opening import CLIP

if TYPE_CHECKING:
    from evals.geneval.prompts import Picture, Prompt

WRITES = ("verdicts.jsonl", "page.html", "thumbnails", "detections", "pictures")
LAYOUT = "NNNNN/samples/NNNN.png, as the original's"


def parser() -> argparse.ArgumentParser:
    options = drawing.build_parser("run_geneval.sh", __doc__, LAYOUT, WRITES)
    options.add_argument(
        "--prompts", type=Path, metavar="FILE", help="metadata .jsonl (default: the official 553, downloaded)"
    )
    options.add_argument(
        "-n", type=positive, default=4, metavar="N", help="pictures of each prompt (default: 4)"
    )
    options.add_argument(
        "--detector",
        default="mask2former",
        metavar="DETECTOR",
        help="mask2former, world, or PATH (default: %(default)s)",
    )
    options.add_argument(
        "--clip", default=CLIP, metavar="MODEL", help="folder or hub id (default: %(default)s)"
    )
    return options


def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    _preflight(arguments)
    claim_output(arguments)
    from common import dist
    from evals.detectors.opening import open_detector
    from evals.geneval.detections import check_opened, check_vocabulary, detect_waiting, read_found
    from evals.geneval.prompts import find_pictures
    from evals.geneval.report import report
    from evals.geneval.rules import judge

    start = time.time()
    device = dist.start_process(arguments.device)
    prompts = _prompts(arguments)
    chosen = spread(prompts, arguments.limit)
    # What can fail at once comes before what takes long.
    there = find_pictures(arguments.pictures, chosen, arguments.n) if arguments.pictures else None
    detector = open_detector(arguments.detector, arguments.clip, device)
    check_vocabulary(detector, chosen)
    if arguments.pictures is None:
        check_opened(detector, arguments.detector)
    folder = arguments.pictures or arguments.output / "pictures"
    pictures = _draw(arguments, chosen) if there is None else there
    detect_waiting(detector, pictures, arguments.output / "detections")
    if dist.is_main():
        found = read_found(detector, pictures, arguments.output / "detections")
        judged = [
            (picture, one, judge(picture.prompt.metadata, one.detections))
            for picture, one in zip(pictures, found, strict=True)
        ]
        report(
            arguments.output,
            judged,
            prompts=prompts,
            source=str(arguments.prompts or arguments.pictures or "official"),
            per_prompt=arguments.n,
            detector=detector.identity,
            origin=drawing.find_origin(folder, arguments.model, [one.path for one in pictures]),
            seconds=time.time() - start,
        )
    dist.barrier()


def _preflight(arguments: argparse.Namespace) -> None:
    """Everything that is missing, at once and before anything is loaded; raises `UserError` if anything is."""
    from evals import downloads
    from evals.detectors.opening import detector_needs
    from evals.geneval.prompts import OFFICIAL_URL, is_official
    from evals.preflight import require

    needs = [drawing.need(arguments.model, arguments.pictures, LAYOUT)]
    needs += detector_needs(arguments.detector, arguments.clip)
    if arguments.prompts is None and arguments.pictures is None:
        needs.append(downloads.need(OFFICIAL_URL, is_official, "the official prompts", "--prompts"))
    require("GenEval", needs)


def _prompts(arguments: argparse.Namespace) -> list[Prompt]:
    from evals.downloads import kept_at
    from evals.geneval.prompts import OFFICIAL_URL, described_prompts, read_prompts

    if arguments.prompts is None and arguments.pictures is not None:
        return described_prompts(arguments.pictures)
    return read_prompts(arguments.prompts or kept_at(OFFICIAL_URL))


def _draw(arguments: argparse.Namespace, prompts: Sequence[Prompt]) -> list[Picture]:
    """All pictures, of which those that are not there yet are drawn."""
    from common import dist
    from evals.geneval.prompts import Picture, write_metadata
    from generation.picture_folder import geneval

    folder: Path = arguments.output / "pictures"
    numbered = [(prompt.number, prompt.text) for prompt in prompts]
    files = iter(drawing.draw(arguments, numbered, arguments.n, folder, geneval))
    if dist.is_main():
        write_metadata(folder, prompts)
    dist.barrier()
    return [Picture(prompt, image, next(files)) for prompt in prompts for image in range(arguments.n)]


if __name__ == "__main__":
    run_cli(main)
