"""Ask a trained model one question about a picture and print its answer.

MODEL is a folder that `understanding/train.py` exported (RUN/model) or a hub id of a LLaVA model; the answer is
greedy unless --temperature is above 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import add_device

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
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model or a picture that cannot be used."""
    from common.data.images import read_image

    picture = read_image(arguments.image)
    chat = open_model(arguments.model, arguments.device)
    messages = [*first_messages(arguments.system), {"role": "user", "content": arguments.question}]
    print_answer(chat, picture, messages, arguments.max_new_tokens, arguments.temperature)


def open_model(source: str, device: str) -> ChatModel:
    """The model, on the device that --device names."""
    from common import dist
    from understanding.chat import load

    return load(source, dist.start_process(device))


def first_messages(system: str | None) -> list[dict[str, str]]:
    """What stands before the first question: the system message, if one was given."""
    return [] if system is None else [{"role": "system", "content": system}]


def print_answer(
    chat: ChatModel,
    picture: Image.Image,
    messages: list[dict[str, str]],
    max_new_tokens: int,
    temperature: float,
) -> str:
    """Print an answer as it is written; returns it."""
    answer = ""
    for piece in chat.stream([picture], messages, max_new_tokens, temperature):
        answer += piece
        print(piece, end="", flush=True)
    print()
    return answer.strip()
