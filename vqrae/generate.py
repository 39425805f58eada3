"""Draw pictures for a prompt, or for a file of prompts.

    vqrae generate MODEL "a photo of a red circle" -n 4 --out DIR
    vqrae generate MODEL --prompts FILE -n 4 --out DIR
    vqrae generate MODEL "a photo of two circles" --best-of 8 --judge rules:world --out DIR
    torchrun --nproc-per-node 8 -m vqrae.cli generate MODEL --prompts FILE --out DIR

DIR receives one PNG per picture, with prompt, seed and settings in its text chunks; settings.json; and sheet.png with
the first of them. FILE has one prompt a line, or, as .jsonl, one object with `prompt` a line (GenEval's metadata).
Pictures that are there are kept, if they are of the same model and settings: so a call that was stopped goes on where
it was when it is repeated, and prompts and pictures (-n) may be added.

--best-of 8 draws eight pictures of each prompt, and DIR receives the best -n of them by --judge, with scores.jsonl, all
scores. Judges are GenEval's rules (a prompt's line has its metadata, or its text is in GenEval's phrasing), CLIP's
similarity, a LLaVA-style model that is asked questions, or a reader of what is written (the line's `text`, or TEXT).

The random numbers of a picture follow from seed, prompt and its number among the pictures of that prompt. Batches of
another size round otherwise, which rarely changes a picture in float32, and often in bfloat16; --deterministic draws
batches of one form, so that nothing else matters on the same kind of machine.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common.command import positive
from common.errors import UserError
from common.text import checked, parse_json, read_lines
from generation.drawing import Drawing
from generation.drawing import add_arguments as add_drawing
from vqrae import choosing

HELP = "draw pictures for a prompt, or for a file of prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="generator's folder or hub id")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help='what to draw; "" draws without a prompt')
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line, or .jsonl")
    parser.add_argument(
        "-n", type=positive, default=1, metavar="N", help="pictures of each prompt (default: 1)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument(
        "--overwrite", action="store_true", help="draw over pictures of another model or other settings"
    )
    choosing.add_arguments(parser)
    add_drawing(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model, prompt or setting that cannot be used, before anything is drawn."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError("expected either a prompt or --prompts FILE")
    prompts = [arguments.prompt] if arguments.prompts is None else read_prompts(arguments.prompts)
    prompts = list(
        dict.fromkeys(map(checked, prompts))
    )  # the same prompt twice would be the same pictures twice
    drawing = Drawing.read(vars(arguments))
    choosing.check(arguments)
    if arguments.best_of is not None:
        choosing.run(arguments, prompts, drawing)
        return

    from common import dist
    from generation.picture_folder import draw
    from generation.picture_record import places

    folder: Path = arguments.out
    numbers = None if arguments.overwrite else places(folder, prompts)
    drawn = draw(
        drawing, arguments.model, prompts, arguments.n, folder, numbers=numbers, overwrite=arguments.overwrite
    )
    if dist.is_main():
        print(f"{folder}: {drawn}; {folder / 'sheet.png'} shows the first")


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, or with the ending .jsonl the `prompt` of each line's object; says how many lines are empty.

    Raises:
        UserError: no such file, no valid text, no prompts, or a line that has none.
    """
    lines = read_lines(path)
    left_out = sum(not line.strip() for _, line in lines)
    prompts = []
    for number, line in lines:
        prompt: object = line.strip()
        if not prompt:
            continue
        if path.suffix == ".jsonl":
            record = parse_json(line, f"{path}: line {number}")
            if not isinstance(record, dict) or "prompt" not in record:
                raise UserError(f"{path}: line {number}: expected an object with `prompt`")
            prompt = record["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{path}: line {number}: no prompt")
        prompts.append(checked(prompt, f"{path}: line {number}"))
    if not prompts:
        raise UserError(f"{path}: no prompts")
    told = [f"{left_out} empty lines left out"] if left_out else []
    if repeated := len(prompts) - len(set(prompts)):
        told.append(f"{repeated} repeat another")
    if told and os.environ.get("RANK", "0") == "0":
        print(f"{path}: {len(prompts)} prompts; {', '.join(told)}", flush=True)
    return prompts
