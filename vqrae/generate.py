"""Draw pictures for a prompt, or for a file of prompts.

    vqrae generate MODEL "a photo of a red circle" -n 4 --out DIR
    vqrae generate MODEL --prompts FILE -n 4 --out DIR
    torchrun --nproc-per-node 8 -m vqrae.cli generate MODEL --prompts FILE --out DIR

DIR receives one PNG per picture, with prompt, seed and settings in its text chunks; settings.json; and sheet.png with
the first of them. FILE has one prompt a line, or, as .jsonl, one object with `prompt` a line (GenEval's metadata). A
call that was stopped goes on where it was when it is repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common.command import positive
from common.errors import UserError, refusing
from generation.drawing import Drawing
from generation.drawing import add_arguments as add_drawing

HELP = "draw pictures for a prompt, or for a file of prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="generator's folder or hub id")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help='what to draw; "" draws without a prompt')
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line, or .jsonl")
    parser.add_argument(
        "-n", type=positive, default=1, metavar="N", help="pictures of each prompt (default: 1)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    add_drawing(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model, prompt or setting that cannot be used, before anything is drawn."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError("expected either a prompt or --prompts FILE")
    prompts = [arguments.prompt] if arguments.prompts is None else read_prompts(arguments.prompts)
    drawing = Drawing.read(vars(arguments))

    from common import dist
    from generation.picture_folder import draw

    drawn = draw(drawing, arguments.model, prompts, arguments.n, arguments.out)
    if dist.is_main():
        print(f"{arguments.out}: {drawn}; {arguments.out / 'sheet.png'} shows the first")


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, or with the ending .jsonl the `prompt` of each line's object.

    Raises:
        UserError: no such file, no UTF-8, no prompts, or a line that has none: an empty line would shift the indices
            that the random numbers follow from, or be drawn without a prompt.
    """
    with (
        refusing(f"{path}: cannot be read", OSError),
        refusing(f"{path}: expected text in UTF-8", UnicodeDecodeError),
    ):
        lines = path.read_text(encoding="utf-8").splitlines()
    prompts = []
    for number, line in enumerate(lines, 1):
        prompt: object = line.strip()
        if path.suffix == ".jsonl":
            try:
                prompt = json.loads(line)["prompt"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: line {number}: expected an object with `prompt`") from error
        if not isinstance(prompt, str) or not prompt:
            raise UserError(f"{path}: line {number}: no prompt")
        prompts.append(prompt)
    if not prompts:
        raise UserError(f"{path}: no prompts")
    return prompts
