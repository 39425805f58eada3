"""Ask a trained model about a picture, about several, or about none, and print its answer.

    vqrae ask MODEL IMAGE QUESTION
    vqrae ask MODEL --image A --image B QUESTION
    vqrae ask MODEL QUESTION
    vqrae ask MODEL --file questions.jsonl --out answers.jsonl

MODEL is a folder that `understanding/train.py` exported (RUN/model) or a hub id of a LLaVA model; the answer is
greedy unless --temperature is above 0. A file of questions has one JSON object a line, with `question`, `image` (a
path from the file's folder, a list of them, or none) and `id`; LLaVA's own `text` and `question_id` are read too. A
line that cannot be answered is named, and the others are; a call that was stopped goes on where it was when it is
repeated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import add_batch_size, add_device
from common.errors import UserError

if TYPE_CHECKING:
    from understanding.chat.decoding import Decoding
    from understanding.chat.model import ChatModel

HELP = "ask about pictures: one question, or a file of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model, or hub id")
    parser.add_argument(
        "words", metavar="IMAGE QUESTION", nargs="*", help="picture, if any, and question, in quotes"
    )
    parser.add_argument(
        "--image", metavar="PATH", type=Path, action="append", default=[], help="picture; may be repeated"
    )
    parser.add_argument("--file", metavar="FILE", type=Path, help="questions, in JSON Lines")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where the answers to --file go, in JSON Lines"
    )
    parser.add_argument(
        "--images", metavar="DIR", type=Path, help="where pictures of --file are (default: beside it)"
    )
    add_batch_size(parser, "questions of --file")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What `ask` and `chat` share: how the model is loaded, and how it answers."""
    parser.add_argument("--system", metavar="TEXT", help="system message, in place of the template's own")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens alone (default: 1)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="draws repeat (default: others each time)")
    add_device(parser)
    parser.add_argument(
        "--device-map",
        choices=("auto", "balanced", "sequential"),
        help="deal the layers to several GPUs and the CPU, in place of --device",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (default: auto, as saved on a GPU and float32 on a CPU)",
    )
    parser.add_argument(
        "--bits", type=int, choices=(4, 8), help="of the language model's weights, by bitsandbytes"
    )


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model, a picture or a question that cannot be used."""
    decoding = read_decoding(arguments)
    if arguments.file is not None:
        answer_file(arguments, decoding)
        return
    images, question = read_words(arguments)
    from understanding.chat.session import ChatSession
    from understanding.chat.turns import checked_text, read_picture

    # Before the model is loaded, which may take minutes.
    pictures, question = [read_picture(image) for image in images], checked_text(question)
    session = ChatSession(open_model(arguments), pictures, arguments.system)
    print_pieces(session.stream(question, decoding=decoding))


def read_words(arguments: argparse.Namespace) -> tuple[list[Path], str]:
    """The pictures and the question that the command line names."""
    *first, question = arguments.words or [""]
    if arguments.out or arguments.images:
        raise UserError("--out and --images: go with --file")
    if len(first) > 1:
        raise UserError(
            f"expected [IMAGE] QUESTION, found {len(arguments.words)} words: put the question in quotes"
        )
    if not first and not arguments.image and os.path.isfile(question):  # noqa: PTH113  # or no path
        raise UserError(f"{question}: is a picture; the question is missing")
    if not question.strip():
        raise UserError("expected a question, or --file FILE")
    return [*map(Path, first), *arguments.image], question


def answer_file(arguments: argparse.Namespace, decoding: Decoding) -> None:
    """--file and --out."""
    if arguments.out is None or arguments.words or arguments.image:
        raise UserError("--file: expected --out FILE, and neither a question nor --image")
    if arguments.out.resolve() == arguments.file.resolve():
        raise UserError(f"--out {arguments.out}: is the file of questions")
    if not arguments.file.is_file():
        raise UserError(f"{arguments.file}: no such file")
    from dataclasses import asdict

    from common.models.weight_files import check_model_type, resolve_folder, weights_sha256
    from understanding.chat.answer_file import AnswerFile
    from understanding.chat.asking import FileAsker

    folder = resolve_folder(arguments.model)
    check_model_type(folder, "llava")
    settings = {
        "model": weights_sha256(folder),
        **asdict(decoding),
        "system": arguments.system,
        "dtype": arguments.dtype,
        "bits": arguments.bits,
    }
    with AnswerFile(arguments.out, settings) as answers:
        asker = FileAsker(
            open_model(arguments),
            arguments.file,
            decoding,
            images=arguments.images,
            system=arguments.system,
            batch_size=arguments.batch_size,
        )
        asker.run(answers)
        print(f"{len(answers.rows)} answers in {arguments.out}")
    if asker.failed:
        raise UserError(f"{arguments.file}: {asker.failed} questions have no answer; they are named above")


def read_decoding(arguments: argparse.Namespace) -> Decoding:
    from understanding.chat.decoding import Decoding

    return Decoding(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed)


def open_model(arguments: argparse.Namespace) -> ChatModel:
    """The model, where and as the options say."""
    from common import dist
    from understanding.chat.model import load

    device = "cpu" if arguments.device_map else dist.start_process(arguments.device)
    return load(
        arguments.model,
        device,
        dtype=arguments.dtype,
        device_map=arguments.device_map,
        bits=arguments.bits,
    )


def print_pieces(pieces: Iterable[str]) -> None:
    """Print an answer as it is written."""
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
