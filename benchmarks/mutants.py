"""Old faults, put back into today's code one at a time: does a test see each of them?

    python -m benchmarks.mutants                 all of benchmarks/mutants/
    python -m benchmarks.mutants c07 c13_bom     those whose names begin so

A mutant is a patch whose head names the item that it belongs to, the fault, and the test that must fail:

    Item: C7
    Fault: the judge is opened after everything was drawn
    Test: tests/evals/test_dpg_bench.py::test_the_judge_is_opened_first

All these tests are run on a copy of the working tree, where they must pass; then each patch is applied to it, and its
own test must fail. The exit code is 1 if one is not seen, or no longer applies. Faults that nobody chose are drawn by
`benchmarks.mutator` and judged by `benchmarks.drawn_mutants`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.forked_tests import TOO_LONG, import_libraries, run_forked
from common.command import described_parser
from common.errors import UserError, run_cli

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "benchmarks" / "mutants"
FIELDS = ("Item", "Fault", "Test")
LIMIT = 900.0  # seconds for one test
FAILED = 1  # pytest's exit code where tests ran and failed; all others say that something else went wrong


@dataclass(frozen=True)
class Mutant:
    """One patch. `test` is what pytest is asked for."""

    path: Path
    item: str
    fault: str
    test: str


def read_mutant(path: Path) -> Mutant:
    """The patch at `path`.

    Raises:
        UserError: a field of its head is missing.
    """
    head, patch, _ = path.read_text(encoding="utf-8").partition("diff --git ")
    found = dict(re.findall(r"^(\w+): (.+)$", head, re.MULTILINE))
    for field in FIELDS:
        if field not in found:
            raise UserError(f"{path}: {field}: missing above the patch")
    if not patch:
        raise UserError(f"{path}: holds no patch")
    return Mutant(path, *(found[field].strip() for field in FIELDS))


def copy_tree(folder: Path) -> None:
    """What git knows or would add, as it stands now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def verdict(mutant: Mutant, folder: Path) -> str:
    """`seen`, or what else happened. `folder` holds the copy, which is left as it was."""
    patch = ["git", "apply", "--whitespace=nowarn", str(mutant.path)]
    if subprocess.run(patch, cwd=folder, capture_output=True).returncode:
        return "does not apply"
    try:
        done = run_forked([mutant.test], folder, LIMIT)
    finally:
        subprocess.run([*patch, "--reverse"], cwd=folder, check=True, capture_output=True)
    if done.code in (FAILED, TOO_LONG):
        return "seen"
    return "NOT SEEN" if done.code == 0 else f"no test ran (pytest ended with {done.code})"


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Those whose file names begin with one of `names`, all if there are none.

    Raises:
        UserError: a name that no patch has, or a patch without a head.
    """
    paths = sorted(MUTANTS.glob("*.patch"))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            raise UserError(f"{name}: no patch in {MUTANTS} begins so")
    return [read_mutant(path) for path in paths if not names or path.name.startswith(tuple(names))]


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of file names (default: all)")
    mutants = chosen(parser.parse_args().names)
    table = Table("mutant", "item", "verdict", "fault", box=None)
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tree"
        copy_tree(folder)
        # A repository of its own, so that git applies the patch there and not in one around it.
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        import_libraries()
        sound = run_forked(sorted({mutant.test for mutant in mutants}), folder, LIMIT + 60 * len(mutants))
        if sound.code:
            print(sound.output, file=sys.stderr)
            raise UserError("the tests fail without any fault, see above")
        for number, mutant in enumerate(mutants, 1):
            outcome = verdict(mutant, folder)
            missed += outcome != "seen"
            table.add_row(mutant.path.stem, mutant.item, outcome, mutant.fault)
            print(f"{number}/{len(mutants)} {mutant.path.stem}: {outcome}", file=sys.stderr, flush=True)
    Console(width=140).print(table)
    print(f"{len(mutants) - missed} of {len(mutants)} seen")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    run_cli(main)
