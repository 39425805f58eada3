"""Talk with a trained model about pictures; its answers appear as they are written.

Every question is asked with all turns before it. Besides questions it takes

    /image PATH   look at another picture and start anew
    /add PATH     add a picture to the next question
    /reset        start anew with the same picture
    /quit         end, as does Ctrl-D

Ctrl-C while an answer is written takes its question back. What cannot be used is named, and the talk goes on. A talk
that outgrows the model's context is refused, unless --drop-oldest lets its oldest turns go.
"""

from __future__ import annotations

import argparse
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import MORE_MEMORY, UserError, out_of_memory
from vqrae.ask import add_model_arguments, open_model, print_pieces, read_decoding

if TYPE_CHECKING:
    from PIL import Image

    from understanding.chat.decoding import Decoding
    from understanding.chat.session import ChatSession

HELP = "talk about pictures, over several turns"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model, or hub id")
    parser.add_argument("words", metavar="IMAGE", nargs="*", help="picture; none, one or several")
    parser.add_argument(
        "--drop-oldest", action="store_true", help="drop the oldest turns where a talk grows too long"
    )
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model or a picture that cannot be used; within the talk, a bad picture is only named."""
    decoding = read_decoding(arguments)
    from understanding.chat.session import ChatSession
    from understanding.chat.turns import read_picture

    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # else bytes that are no text would end the talk
    pictures = [read_picture(Path(image)) for image in arguments.words]
    session = ChatSession(
        open_model(arguments), pictures, arguments.system, drop_oldest=arguments.drop_oldest
    )
    print(f"{', '.join(arguments.words) or 'no picture'}: ask away (/quit ends)")
    added: list[Image.Image] = []
    while (line := _read_line()) not in (None, "/quit"):
        command, _, rest = (line or "").partition(" ")
        try:
            if command == "/reset":
                session.reset()
                added = []
            elif command == "/image":
                session.reset([Path(rest.strip())])
                added = []
            elif command == "/add":
                added.append(read_picture(Path(rest.strip())))
            elif command.startswith("/"):
                raise UserError(f"{command}: unknown; there are /image PATH, /add PATH, /reset and /quit")
            elif line:
                _ask(session, line, added, decoding)
                added = []
        except KeyboardInterrupt:
            print("\n(stopped; the question is taken back)", file=sys.stderr)
        except Exception as error:
            if not isinstance(error, UserError) and not out_of_memory(error):
                raise
            print(error if isinstance(error, UserError) else MORE_MEMORY, file=sys.stderr)


def _ask(session: ChatSession, question: str, added: list[Image.Image], decoding: Decoding) -> None:
    dropped = session.dropped
    print_pieces(session.stream(question, added, decoding))
    if session.dropped > dropped:
        print(f"(the oldest turns are dropped, {session.dropped} so far)", file=sys.stderr)


def _read_line() -> str | None:
    """One line of the user's; None at the end of input."""
    try:
        return input("> ").removeprefix("\ufeff").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None
