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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from generation.picture_files import Naming
    from generation.sampling import Sampling

HELP = "draw pictures for a prompt, or for a file of prompts"
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="generator's folder or hub id")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help='what to draw; "" draws without a prompt')
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line, or .jsonl")
    parser.add_argument("-n", type=int, default=1, metavar="N", help="pictures of each prompt (default: 1)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    add_drawing_arguments(parser)


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that says how `draw` draws."""
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--cfg-scale", type=float, metavar="S", help="guidance strength; 1: none (default: 5)"
    )
    parser.add_argument(
        "--cfg-schedule",
        metavar="KIND",
        help="constant, or growing from 1: linear, cosine (default: constant)",
    )
    parser.add_argument(
        "--cfg-interval",
        type=float,
        nargs=2,
        metavar=("A", "B"),
        help="share of the codes that are guided (default: 0 1)",
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="default: 1")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="draw from the K most likely codes (default: all)"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest share P (default: 1)"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the most likely code")
    parser.add_argument("--tokens", type=int, metavar="N", help="codes per picture (default: as in training)")
    parser.add_argument(
        "--truncate", action="store_true", help="cut prompts that are too long, else an error"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="B", help="pictures per process at once (default: 16)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, as saved on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model, prompt or setting that cannot be used, before anything is drawn."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError("expected either a prompt or --prompts FILE")
    if arguments.n < 1:
        raise UserError(f"-n: expected 1 or more, found {arguments.n}")
    prompts = [arguments.prompt] if arguments.prompts is None else read_prompts(arguments.prompts)
    files = draw(arguments, arguments.model, prompts, arguments.n, arguments.out)

    from common.training import dist

    if dist.is_main():
        print(
            f"wrote {len(files)} pictures to {arguments.out}; {arguments.out / 'sheet.png'} shows the first"
        )


def draw(
    arguments: argparse.Namespace,
    model: str,
    prompts: Sequence[str],
    n: int,
    folder: Path,
    naming: Naming | None = None,
) -> list[Path]:
    """Draw what `folder` does not hold yet, as the options of `add_drawing_arguments` say; see `write_pictures`.

    Raises:
        UserError: a model, prompt or setting that cannot be used, before anything is drawn.
    """
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size: expected 1 or more, found {arguments.batch_size}")
    sampling = _sampling(arguments)

    import torch

    from generation.generate import Generator
    from generation.picture_files import flat, write_pictures
    from tokenizer.inference import start_process

    device = start_process(arguments.device)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    generator = Generator.from_pretrained(model, device, dtype)
    try:
        sampling.check(generator.vocabulary.codebook_size)
    except ValueError as error:
        raise _option(error) from error
    return write_pictures(
        generator,
        prompts,
        n,
        folder,
        seed=arguments.seed,
        sampling=sampling,
        batch_size=arguments.batch_size,
        tokens=arguments.tokens,
        truncate=arguments.truncate,
        naming=naming or flat,
        source=model,
    )


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, or with the ending .jsonl the `prompt` of each line's object.

    Raises:
        UserError: no such file, no UTF-8, no prompts, or a line that has none: an empty line would shift the indices
            that the random numbers follow from, or be drawn without a prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8") from error
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


def _sampling(arguments: argparse.Namespace) -> Sampling:
    """The settings that were given; all others keep the defaults of `Sampling`."""
    from generation.sampling import Sampling

    names = ("cfg_scale", "cfg_schedule", "cfg_interval", "temperature", "top_k", "top_p", "greedy")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if "cfg_interval" in given:
        given["cfg_interval"] = tuple(given["cfg_interval"])
    try:
        return Sampling(**given)
    except ValueError as error:
        raise _option(error) from error


def _option(error: ValueError) -> UserError:
    """`top_k: expected ...` as the command line names it: `--top-k: expected ...`."""
    name, colon, rest = str(error).partition(":")
    return UserError(f"--{name.replace('_', '-')}{colon}{rest}")
