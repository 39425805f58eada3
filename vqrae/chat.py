"""Talk with a trained model about a picture; its answers appear as they are written.

Every question is asked with all turns before it. Besides questions it takes

    /image PATH   look at another picture and start anew
    /reset        start anew with the same picture
    /quit         end, as does Ctrl-D
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.errors import UserError
from vqrae.ask import add_model_arguments, first_messages, open_model, print_answer

HELP = "talk about a picture, over several turns"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a model or a picture that cannot be used; within the talk, a bad picture is only named."""
    from common.data.images import read_image

    picture = read_image(arguments.image)
    chat = open_model(arguments.model, arguments.device)
    start = first_messages(arguments.system)
    messages = list(start)
    print(f"{arguments.image}: ask away (/quit ends)")
    while (line := _read_line()) is not None:
        command, _, rest = line.partition(" ")
        if not line:
            continue
        if command == "/quit":
            break
        if command == "/reset":
            messages = list(start)
        elif command == "/image":
            try:
                picture = read_image(Path(rest.strip()))
                messages = list(start)
            except UserError as error:
                print(error, file=sys.stderr)
        elif command.startswith("/"):
            print(f"{command}: unknown; there are /image PATH, /reset and /quit", file=sys.stderr)
        else:
            messages.append({"role": "user", "content": line})
            answer = print_answer(chat, picture, messages, arguments.max_new_tokens, arguments.temperature)
            messages.append({"role": "assistant", "content": answer})


def _read_line() -> str | None:
    """One line of the user's; None at the end of input."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None
