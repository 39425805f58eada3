"""Faults are planted where they were drawn, in what still parses, and lists outlive edits around their places."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest
import yaml

from benchmarks.fault_sites import Mutant, sites
from benchmarks.mutator import ROOT, draw, planted, read_list
from common.errors import UserError

DRAWN = ROOT / "benchmarks" / "drawn"
TEXT = '''
"""A module."""
def loss(pixels, weights, rest=0.5):
    """Not a fault: 1 < 2."""
    if weights.l2 > 0 and not weights.off:
        pixels = pixels.detach()
    with torch.no_grad():
        model.requires_grad_(True)
    total = weights.l2 * pixels - mse(pixels, weights, reduction="sum")
    if total < 0:
        raise ValueError(f"negative: {total + 1}")
    return total
'''


def kinds(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for site in sites("a.py", text):
        found.setdefault(site.mutant.kind, set()).add(f"{site.mutant.before} -> {site.mutant.after}")
    return found


def test_what_is_turned() -> None:
    found = kinds(TEXT)
    assert "model.requires_grad_(True) -> pass" in found["call left out"]
    assert found["truth turned"] == {"True -> False"}
    assert found["gradient kept"] == {"torch.no_grad() -> torch.enable_grad()"}
    assert "pixels.detach() -> pixels" in found["step left out"]
    assert "weights.l2 > 0 -> weights.l2 <= 0" in found["comparison turned"]
    assert "weights.l2 > 0 -> weights.l2 >= 0" in found["bound moved"]
    assert "weights.l2 -> weights.off" in found["another field read"]
    assert 'mse(pixels, weights, reduction="sum") -> mse(pixels, weights)' in found["keyword left out"]
    assert "pixels, weights -> weights, pixels" in found["arguments exchanged"]
    assert "weights.l2 * pixels -> (weights.l2 / pixels)" in found["arithmetic exchanged"]
    assert found["input returned"] == {"total -> pixels"}
    assert found["constant changed"] == {"0.5 -> 1.0", "0 -> 1"}  # neither the docstring's nor the error's


def test_each_fault_stands_alone_and_parses() -> None:
    for file in ("tokenizer/objective.py", "common/data/order.py"):
        text = (ROOT / file).read_text(encoding="utf-8")
        found = [site.mutant for site in sites(file, text)]
        assert len(found) == len(set(found)) > 30
        for mutant in found[::7]:
            faulty = planted(mutant, text)
            assert faulty is not None and ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(text)), mutant


def test_a_place_is_found_again_below_new_lines_and_missed_when_it_has_changed() -> None:
    (mutant,) = [site.mutant for site in sites("a.py", TEXT) if site.mutant.kind == "truth turned"]
    moved = TEXT.replace('"""A module."""', '"""A module."""\nHERE = "Größe"\n')
    assert planted(mutant, moved) == moved.replace("(True)", "(False)")
    assert planted(mutant, TEXT.replace("requires_grad_(True)", "requires_grad_(learns)")) is None


def test_a_seed_draws_one_list() -> None:
    lists = [draw("a.py", TEXT, 6, random.Random(seed)) for seed in (1, 1, 2)]
    assert lists[0] == lists[1] != lists[2] and len(set(lists[0])) == 6
    assert len(draw("a.py", TEXT, 10**4, random.Random(0))) < 10**4  # as many as there are


def test_damaged_lists_are_one_line(tmp_path: Path) -> None:
    for name, text in (("gone.json", None), ("torn.json", "{"), ("other.json", '{"mutants": [{"a": 1}]}')):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=name):
            read_list(tmp_path / name)


def test_committed_lists_have_tests_and_their_survivors_are_theirs() -> None:
    from benchmarks.drawn_mutants import key

    known = yaml.safe_load((DRAWN / "tests.yaml").read_text(encoding="utf-8"))
    drawn: list[Mutant] = [mutant for path in sorted(DRAWN.glob("*.json")) for mutant in read_list(path)]
    assert len(drawn) >= 60 and {mutant.file for mutant in drawn} <= set(known)
    assert all((ROOT / test).is_file() for tests in known.values() for test in tests)
    explained = yaml.safe_load((DRAWN / "survivors.yaml").read_text(encoding="utf-8")) or {}
    assert set(explained) <= {key(mutant) for mutant in drawn}
