"""The prompts that generators are measured on, known without their files: by a short hash each.

`python -m common.benchmark_prompts NAME=FILE...` makes the table from one prompt a line.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import run_cli
from common.files import write_json
from common.text import read_json, read_lines

KNOWN = Path(__file__).with_name("benchmark_prompts.json")
DIGITS = 8  # of a hash; one text in two million is taken for a prompt by accident


def known_hashes() -> dict[str, str]:
    """The benchmark of each hash."""
    table = read_json(KNOWN)
    return {
        joined[place : place + DIGITS]: name
        for name, joined in table.items()
        for place in range(0, len(joined), DIGITS)
    }


def hashed(text: str) -> str:
    """Of the words alone: neither case nor punctuation nor white space make another prompt."""
    return hashlib.blake2b(" ".join(words(text)).encode(), digest_size=DIGITS // 2).hexdigest()


def words(text: str) -> list[str]:
    """In lower case, without punctuation."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def main(argv: Sequence[str] | None = None) -> None:
    table = {}
    for argument in sys.argv[1:] if argv is None else argv:
        name, _, path = argument.partition("=")
        table[name] = "".join(sorted({hashed(line) for _, line in read_lines(Path(path)) if line.strip()}))
    write_json(KNOWN, table)


if __name__ == "__main__":
    run_cli(main)
