"""Prompts whose pictures are scored: never a benchmark's, whose figures would then tell nothing.

What is notable here: the texts of GenEval and of DPG-Bench are known by a short hash each, so that they are refused
where neither is at hand (`common/benchmark_prompts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.benchmark_prompts import hashed, known_hashes
from common.errors import UserError
from common.text import checked, parse_json, read_lines, shown


@dataclass(frozen=True)
class ScoredPrompt:
    """What is drawn, and what a scorer may know of it.

    Args:
        metadata: GenEval's (see `evals/geneval/rules.py`) and whatever else the prompt's line has; else `prompt` alone.
        where: file and line, for errors.
    """

    text: str
    metadata: Mapping[str, Any]
    where: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """What errors begin with."""
        return self.where or f"prompt {shown(self.text)}"


def read_scored_prompts(
    path: Path, held_out: Sequence[Path] = (), limit: int | None = None
) -> list[ScoredPrompt]:
    """The prompts of a file, one a line, or with the ending .jsonl one object with `prompt` a line; each text once.

    Args:
        held_out: files of further prompts that are not to be scored.
        limit: at most so many of it, at even distances.

    Raises:
        UserError: a file cannot be read, a prompt is a benchmark's or one of `held_out`, or there is none.
    """
    found = prompts_of(path)
    if limit is not None and limit < len(found):
        found = [found[place * len(found) // limit] for place in range(limit)]
    barred = barred_prompts(held_out)
    for prompt in found:
        if whose := barred.get(hashed(prompt.text)):
            raise UserError(f"{path}: {shown(prompt.text)} is a prompt of {whose}: choose others")
    return found


def prompts_of(path: Path) -> list[ScoredPrompt]:
    """The prompts of a file as of `read_scored_prompts`, a benchmark's too.

    Raises:
        UserError: it cannot be read, or there are none.
    """
    found = list({prompt.text: prompt for prompt in _read(path)}.values())
    if not found:
        raise UserError(f"{path}: no prompts")
    return found


def barred_prompts(files: Iterable[Path] = ()) -> dict[str, str]:
    """Hash of each prompt that is not to be scored, and whose it is: the benchmarks', and those of `files`.

    Raises:
        UserError: a file cannot be read.
    """
    theirs = {hashed(one.text): str(path) for path in files for one in _read(path)}
    return {**known_hashes(), **theirs}


def _read(path: Path) -> Iterable[ScoredPrompt]:
    for number, line in read_lines(path):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        metadata: Any = {"prompt": line.strip()}
        if path.suffix == ".jsonl":
            metadata = parse_json(line, where)
        if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
            raise UserError(f"{where}: expected an object with `prompt`")
        yield ScoredPrompt(checked(metadata["prompt"], where), metadata, where)
