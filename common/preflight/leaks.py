"""Do captions that are trained on hold the prompts that a generator will be measured with?

Texts are compared by their words: no case, punctuation, white space or articles. A caption

- equals a prompt, if their words are the same;
- holds it, if it has at least half (`SHARE`) of the prompt's runs of `NGRAM` words, or, of a prompt that is shorter,
  all of its words in a row. Below `SHORTEST` words ("a photo of a bench") a prompt is common speech: only a caption
  that equals it counts.

Memory follows from the prompts, not from the captions. Runs of 8 words are between the 13 of GPT-3's check (arXiv
2005.14165, appendix C) and what chance brings in texts as short as captions.
"""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.benchmark_prompts import hashed, known_hashes, words
from common.errors import UserError, refusing
from common.text import checked, read_json_lines, read_lines, shown

NGRAM = 8
SHORTEST = 5
SHARE = 0.5
EXAMPLES = 5
ARTICLES = frozenset(("a", "an", "the"))
COLUMNS = ("text", "prompt")  # of a .csv; `text` is DPG-Bench's

Words = tuple[str, ...]


def compared(text: str) -> Words:
    """What is compared of a text."""
    return tuple(word for word in words(unicodedata.normalize("NFKC", text)) if word not in ARTICLES)


def runs(text: Words) -> set[Words]:
    """The runs of words by which a prompt is found in a caption; none of a prompt that only counts as a whole."""
    if len(text) < SHORTEST:
        return set()
    length = min(NGRAM, len(text))
    return {text[place : place + length] for place in range(len(text) - length + 1)}


def read_prompts(path: Path) -> list[str]:
    """A benchmark's prompts: a folder of .txt files (DPG-Bench's), a .jsonl with `prompt` (GenEval's), a .csv with a
    column `text` or `prompt` (DPG-Bench's), else a prompt a line.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        found = [" ".join(line for _, line in read_lines(file)) for file in files]
    elif path.suffix == ".csv":
        found = _column(path)
    elif path.suffix == ".jsonl":
        found = [_prompt(record, f"{path}: line {number}") for number, record in read_json_lines(path)]
    else:
        found = [line for _, line in read_lines(path)]
    found = list(dict.fromkeys(text for text in found if compared(text)))
    if not found:
        raise UserError(f"{path}: no prompts")
    return found


def _prompt(record: Any, where: str) -> str:
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError(f"{where}: expected an object with `prompt`")
    return checked(record["prompt"], where)


def _column(path: Path) -> list[str]:
    with (
        refusing(f"{path}: cannot be read", OSError, UnicodeDecodeError, csv.Error),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        rows = csv.DictReader(file)
        name = next((column for column in COLUMNS if column in (rows.fieldnames or ())), None)
        if name is None:
            raise UserError(f"{path}: no column {' or '.join(COLUMNS)}")
        return [checked(row[name] or "", f"{path}: row {number}") for number, row in enumerate(rows, 2)]


@dataclass
class Found:
    """Of one benchmark: captions that equal a prompt and that hold one, which prompts, and the first examples."""

    equal: int = 0
    holding: int = 0
    prompts: set[int] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)


class LeakSearch:
    """Captions go through `add`, one at a time; `lines` says what was found.

    Args:
        benchmarks: name -> prompts. The texts of GenEval and DPG-Bench are looked for without them, too, by their
            hashes (`common/benchmark_prompts.py`), as equal ones only.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[str]]) -> None:
        self._names = list(benchmarks)
        self._prompts: list[tuple[int, str]] = []  # benchmark, text
        self._equal: dict[Words, list[int]] = defaultdict(list)
        self._holding: dict[Words, list[int]] = defaultdict(list)
        self._needed: list[float] = []  # runs of each prompt that a caption must have
        for benchmark, texts in enumerate(benchmarks.values()):
            for text in texts:
                number, parts = len(self._prompts), runs(compared(text))
                self._prompts.append((benchmark, text))
                self._needed.append(SHARE * len(parts))
                self._equal[compared(text)].append(number)
                for part in parts:
                    self._holding[part].append(number)
        self._lengths = sorted({len(part) for part in self._holding})
        self._hashes = known_hashes()
        self.found = {name: Found() for name in (*benchmarks, *dict.fromkeys(self._hashes.values()))}
        self.captions = 0

    def add(self, caption: str, where: str) -> None:
        """`where` names the caption in examples."""
        self.captions += 1
        said = compared(caption)
        equal = self._equal.get(said, ())
        seen = {run for length in self._lengths for run in _windows(said, length)} & self._holding.keys()
        counts = Counter(number for run in seen for number in self._holding[run])
        held = [n for n, count in counts.items() if count >= self._needed[n] and n not in equal]
        for numbers, kind in ((equal, "equal"), (held, "holding")):
            for benchmark in {self._prompts[number][0] for number in numbers}:
                mine = [number for number in numbers if self._prompts[number][0] == benchmark]
                found = self.found[self._names[benchmark]]
                setattr(found, kind, getattr(found, kind) + 1)
                found.prompts.update(mine)
                _remember(found, f"{where}: {shown(caption)} ({shown(self._prompts[mine[0]][1])})")
        if (known := self._hashes.get(hashed(caption))) is not None:
            self.found[known].equal += 1
            _remember(self.found[known], f"{where}: {shown(caption)}")

    def lines(self) -> list[str]:
        """A line for each benchmark, and its examples."""
        told = [f"leaks            {self.captions:,} captions looked at"]
        for name, found in self.found.items():
            count = f"{found.equal:,} equal a prompt of {name}"
            if name in self._names:
                count += f", {found.holding:,} hold one; {len(found.prompts):,} of its prompts are met"
            told += [f"  {count}", *(f"    {example}" for example in found.examples)]
        return told


def _windows(text: Words, length: int) -> Iterable[Words]:
    return (text[place : place + length] for place in range(len(text) - length + 1))


def _remember(found: Found, example: str) -> None:
    if len(found.examples) < EXAMPLES:
        found.examples.append(example)
