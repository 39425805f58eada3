"""What is held against a run that was killed: the ledger of what it learned from, its files, and its checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

WORLD = 2
MICRO = 2  # micro-batches a step: a global batch of 4, one sample at a time on each rank


@dataclass
class Result:
    """What came of one run and its kills."""

    job: str
    run: str
    launcher: str
    kills: int = 0
    inside_saves: int = 0
    lives: int = 0
    lost: int = 0
    repeated: int = 0
    misplaced_steps: int = 0
    corrupt: int = 0
    unequal: int = 0
    told: list[str] = field(default_factory=list)


def history(run: Path, rank: int) -> list[list[str]]:
    """The micro-batches that the surviving weights of a rank have learned from, in order."""
    given: list[list[str]] = []
    begin, fresh = 0, True
    for line in ledger_of(run, rank).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "life" in entry:
            begin, fresh = 0, True
        elif "resumed" in entry:
            begin = entry["resumed"]
        else:
            if fresh:  # what came after the step that this life went on from is undone
                if len(given) < begin * MICRO:
                    given += [["?"]] * (begin * MICRO - len(given))
                del given[begin * MICRO :]
                fresh = False
            given.append(entry["samples"])
    return given


def ledger_of(run: Path, rank: int) -> Path:
    return run.with_name(f"{run.name}_rank{rank}.jsonl")


def compare(result: Result, run: Path, alone: Path) -> None:
    """Samples and weights against the run that was left alone."""
    for rank in range(WORLD):
        found, expected = history(run, rank), history(alone, rank)
        result.misplaced_steps += sum(one != other for one, other in zip(found, expected, strict=False))
        given, due = (Counter(s for batch in batches for s in batch) for batches in (found, expected))
        result.lost += (due - given).total()
        result.repeated += (given - due).total()
    theirs, ours = files_in(alone / "model"), files_in(run / "model")
    result.unequal += sum(theirs.get(name) != ours.get(name) for name in theirs.keys() | ours.keys())


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def corrupt_checkpoints(folder: Path) -> list[str]:
    """Those that stand there by name and are not what they say; by a reading of our own."""
    found = []
    for path in sorted(folder.glob("step_*")):
        try:
            listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
            sound = {name: entry["sha256"] for name, entry in listed.items()} == {
                name: digest for name, digest in files_in(path).items() if name != "manifest.json"
            }
        except (OSError, ValueError, KeyError) as error:
            found.append(f"{path.name}: {error!r}")
        else:
            if not sound:
                found.append(f"{path.name}: files differ from the manifest")
    return found
