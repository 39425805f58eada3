"""Drawn faults, planted one at a time: how many does a test see?

    python -m benchmarks.drawn_mutants benchmarks/drawn/first.json --out runs/drawn
    python -m benchmarks.drawn_mutants benchmarks/drawn/first.json --out runs/drawn --only generation/

Lists come from `benchmarks.mutator`. `benchmarks/drawn/tests.yaml` says which tests should see a fault in which file;
on a copy of the tree as it stands they must all pass, then each fault is planted there and they run again, in a fork
of one process that has the large libraries imported, until one of them fails.

    killed      a test failed, or nothing could be imported
    survived    all passed
    too long    the limit ended it: a fault that makes tests hang, or a machine that is busy
    gone        the place is no longer there: the code has changed since the list was drawn

Verdicts are kept in `--out`; a call goes on where the last one broke off. `benchmarks/drawn/survivors.yaml` explains
those that survive. The exit code is 1 if one survives without a word.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.fault_sites import Mutant
from benchmarks.forked_tests import TOO_LONG, Outcome, import_libraries, run_forked
from benchmarks.mutants import ROOT, copy_tree
from benchmarks.mutator import planted, read_list
from common.command import described_parser, positive
from common.errors import UserError, run_cli

DRAWN = ROOT / "benchmarks" / "drawn"


def tests_of(mutant: Mutant, known: dict[str, list[str]]) -> list[str]:
    """Raises `UserError` for a file that has no tests named."""
    if mutant.file not in known:
        raise UserError(f"{DRAWN / 'tests.yaml'}: names no tests for {mutant.file}")
    return known[mutant.file]


def seen_by(outcome: Outcome) -> str | None:
    """The test that failed, or what else ended them; None if all passed."""
    if outcome.code == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", outcome.output, re.MULTILINE)
    return failed[1] if failed else f"pytest, which ended with {outcome.code}"


def verdict(mutant: Mutant, tests: Sequence[str], folder: Path, limit: int) -> dict[str, str | float]:
    """Plants the fault into the copy at `folder`, which is left as it was."""
    file = folder / mutant.file
    sound = file.read_text(encoding="utf-8") if file.is_file() else ""
    faulty = planted(mutant, sound)
    if faulty is None:
        return {"verdict": "gone"}
    file.write_text(faulty, encoding="utf-8")
    try:
        outcome = run_forked(["-x", *tests], folder, limit)
    finally:
        file.write_text(sound, encoding="utf-8")
    if outcome.code == TOO_LONG:
        return {"verdict": "too long", "seconds": round(outcome.seconds)}
    by = seen_by(outcome)
    if by is None:
        return {"verdict": "survived", "seconds": round(outcome.seconds)}
    return {"verdict": "killed", "by": by, "seconds": round(outcome.seconds)}


def judged(
    path: Path, mutants: Sequence[Mutant], out: Path, limit: int, sound: bool
) -> dict[str, dict[str, str]]:
    """Verdicts by the mutants' names; those that stand in `out` are taken from there."""
    known: dict[str, list[str]] = yaml.safe_load((DRAWN / "tests.yaml").read_text(encoding="utf-8"))
    record = out / f"{path.stem}.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    found = {entry.pop("name"): entry for entry in map(json.loads, lines)}
    waiting = [mutant for mutant in mutants if key(mutant) not in found]
    if not waiting:
        return found
    import_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tree"
        copy_tree(folder)
        if sound:
            check_sound(sorted({test for mutant in waiting for test in tests_of(mutant, known)}), folder)
        for number, mutant in enumerate(waiting, 1):
            found[key(mutant)] = entry = verdict(mutant, tests_of(mutant, known), folder, limit)
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": key(mutant), **entry}) + "\n")
            print(f"{number}/{len(waiting)} {entry}  {key(mutant)}", flush=True)
    return found


def check_sound(tests: Sequence[str], folder: Path) -> None:
    """Raises `UserError` where a test fails without any fault."""
    outcome = run_forked(tests, folder, 3600)
    if outcome.code:
        print(outcome.output, file=sys.stderr)
        raise UserError("the tests fail without any fault, see above")


def key(mutant: Mutant) -> str:
    return f"{mutant.name} #{mutant.place} [{mutant.line}]"


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("list", type=Path, help="what benchmarks.mutator wrote")
    parser.add_argument("--out", type=Path, required=True, help="where verdicts are kept")
    parser.add_argument("--only", default="", metavar="START", help="those in files whose paths begin so")
    parser.add_argument("--limit", type=positive, default=600, help="seconds for each (default: 600)")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without any fault first")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in read_list(arguments.list) if mutant.file.startswith(arguments.only)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = judged(arguments.list, mutants, arguments.out, arguments.limit, not arguments.trust)
    explained = yaml.safe_load((DRAWN / "survivors.yaml").read_text(encoding="utf-8")) or {}
    counts = Counter(found[key(mutant)]["verdict"] for mutant in mutants)
    unexplained = 0
    for mutant in mutants:
        if found[key(mutant)]["verdict"] == "survived":
            why = explained.get(key(mutant))
            unexplained += why is None
            print(f"survived: {key(mutant)}\n    {why or 'UNEXPLAINED'}")
    print(
        f"{arguments.list.stem}: {len(mutants)} drawn, "
        + ", ".join(f"{n} {v}" for v, n in sorted(counts.items()))
    )
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    run_cli(main)
