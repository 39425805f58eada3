"""Prompts to tune on: never a benchmark's, whose figures would then tell nothing.

What is notable here: the texts of GenEval and of DPG-Bench are known by a short hash each, so that they are refused
where neither is at hand. `python -m evals.tuning.prompts NAME=FILE...` makes the table from one prompt a line.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cli
from common.files import write_json
from common.text import checked, parse_json, read_json, read_lines, shown

KNOWN = Path(__file__).with_name("benchmark_prompts.json")
DIGITS = 8  # of a hash; one prompt in two million would be refused by accident


@dataclass(frozen=True)
class TuningPrompt:
    """`metadata`: GenEval's, where the file has it; else `prompt` alone."""

    text: str
    metadata: Mapping[str, Any]


def read_tuning_prompts(path: Path, held_out: Sequence[Path], limit: int | None = None) -> list[TuningPrompt]:
    """The prompts of a file, one a line, or with the ending .jsonl one object with `prompt` a line.

    Args:
        held_out: files of further prompts that are not to be tuned on.
        limit: at most so many of it, at even distances.

    Raises:
        UserError: a file cannot be read, a prompt is a benchmark's or one of `held_out`, or there is none.
    """
    found = list({prompt.text: prompt for prompt in _read(path)}.values())
    if not found:
        raise UserError(f"{path}: no prompts")
    if limit is not None and limit < len(found):
        found = [found[place * len(found) // limit] for place in range(limit)]
    barred = {
        **known_hashes(),
        **{hashed(one.text): str(other) for other in held_out for one in _read(other)},
    }
    for prompt in found:
        if whose := barred.get(hashed(prompt.text)):
            raise UserError(f"{path}: {shown(prompt.text)} is a prompt of {whose}: tune on others")
    return found


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
    kept = "".join(letter if letter.isalnum() else " " for letter in text.lower())
    return hashlib.blake2b(" ".join(kept.split()).encode(), digest_size=DIGITS // 2).hexdigest()


def _read(path: Path) -> Iterable[TuningPrompt]:
    for number, line in read_lines(path):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        metadata: Any = {"prompt": line.strip()}
        if path.suffix == ".jsonl":
            metadata = parse_json(line, where)
        if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
            raise UserError(f"{where}: expected an object with `prompt`")
        yield TuningPrompt(checked(metadata["prompt"], where), metadata)


def main(argv: Sequence[str] | None = None) -> None:
    table = {}
    for argument in sys.argv[1:] if argv is None else argv:
        name, _, path = argument.partition("=")
        table[name] = "".join(sorted({hashed(line) for _, line in read_lines(Path(path)) if line.strip()}))
    write_json(KNOWN, table)


if __name__ == "__main__":
    run_cli(main)
