"""Ask a trained model one question about a picture and print its answer.

MODEL is a folder that `understanding/train.py` exported (RUN/model) or a hub id of a LLaVA model; the answer is
greedy unless --temperature is above 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import refusing

if TYPE_CHECKING:
    from PIL import Image

    from understanding.chat import ChatModel

HELP = "ask one question about a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("question", metavar="QUESTION", help="in quotes")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What `ask` and `chat` share."""
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model, or hub id")
    parser.add_argument("image", metavar="IMAGE", type=Path, help="picture")
    parser.add_argument("--system", metavar="TEXT", help="system message, in place of the template's own")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model or a picture that cannot be used."""
    picture = read_picture(arguments.image)
    chat = open_model(arguments)
    messages = [*first_messages(arguments), {"role": "user", "content": arguments.question}]
    for piece in chat.stream([picture], messages, arguments.max_new_tokens, arguments.temperature):
        print(piece, end="", flush=True)
    print()


def read_picture(path: Path) -> Image.Image:
    """Raises `UserError` naming the file."""
    from common.data.images import CorruptImage, open_image

    with refusing(path, CorruptImage):
        return open_image(path)


def open_model(arguments: argparse.Namespace) -> ChatModel:
    from common import dist
    from understanding.chat import load

    return load(arguments.model, dist.start_process(arguments.device))


def first_messages(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """What stands before the first question."""
    return [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
