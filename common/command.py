"""What command lines share. Light on purpose: `--help` loads no model library."""

from __future__ import annotations

import argparse
from typing import Any


def described_parser(description: str | None, **more: Any) -> argparse.ArgumentParser:
    """A parser whose help begins with `description`, a module's docstring, as it stands.

    Args:
        more: `prog` and whatever else `ArgumentParser` takes.
    """
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device, as `dist.start_process` takes it."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


def add_batch_size(parser: argparse.ArgumentParser, of: str = "pictures", default: int = 16) -> None:
    """--batch-size; `of`: what it counts."""
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=default,
        metavar="N",
        help=f"{of} that each process takes at once (default: {default})",
    )


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(text)
