"""Prompts to tune on: never a benchmark's, whose figures would then tell nothing.

What is notable here: the texts of GenEval and of DPG-Bench are known by a short hash each, so that they are refused
where neither is at hand (`common/benchmark_prompts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.benchmark_prompts import hashed, known_hashes
from common.errors import UserError
from common.text import checked, parse_json, read_lines, shown


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
