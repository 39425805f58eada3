"""The kept faults: each patch applies to today's code and names a test that exists."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.mutants import MUTANTS, ROOT, read_mutant
from common.errors import UserError

PATCHES = sorted(MUTANTS.glob("*.patch"))


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_kept_fault_still_applies(path: Path) -> None:
    mutant = read_mutant(path)
    file, *names = mutant.test.split("::")
    assert names and f"def {names[-1].split('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")
    done = subprocess.run(["git", "apply", "--check", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "missing"),
    [("Item: C1\nTest: x\n\ndiff --git a b\n", "Fault"), ("Item: C1\nFault: x\nTest: y\n", "holds no patch")],
)
def test_a_patch_without_its_head_is_refused(text: str, missing: str, tmp_path: Path) -> None:
    path = tmp_path / "x.patch"
    path.write_text(text)
    with pytest.raises(UserError, match=missing):
        read_mutant(path)
