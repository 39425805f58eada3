"""What command lines share. Light on purpose: `--help` loads no model library."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` on, up to `most` if there is such a bound."""
    expected = f"{least} or more" if most is None else f"{least} to {most}"

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        # So many digits as any size or seed has: Python refuses thousands of them in its own words.
        number = int(text) if digits.isdecimal() and len(digits) < 20 else None
        if number is None or number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return number

    return read


positive = whole_number(1)
"""The type of an argument that is a whole number of at least 1."""
a_seed = whole_number(0, 2**32 - 1)
"""The type of an argument that numpy and torch take for a seed."""
