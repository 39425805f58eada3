"""A run goes on with another number of processes: every sample once, in its step, and the same losses."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pair_jobs
import pytest
import tiny
import tiny_generator
import torch
from ledger import losses
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

MUON = ("optimizer.muon={lr: 0.01}", "optimizer.adamw.max_grad_norm=null")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tokenizer": ("tokenizer", (*tiny.STAGE_2, "evaluation.images=null")),
    "understanding": ("understanding", (*tiny.FINE_TUNING, "data.group=length")),
    "generation": ("generation", (*MUON, "engine.zero_stage=2", "evaluation.source=null")),
}


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shelves")
    return {
        "tokenizer": tiny.write_pictures(folder / "pictures"),
        "understanding": tiny.write_understanding_shelf(folder / "understanding"),
        "generation": tiny_generator.write_shelf(folder / "generation"),
    }


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_then_one_then_two(case: str, pair: Any, shelves: dict[str, Path], tmp_path: Path) -> None:
    trainer, overrides = CASES[case]
    common = {"trainer": trainer, "shelf": str(shelves[trainer])}
    # As many samples meet in a forward pass of all ranks, so that only the order of sums differs.
    two = [*overrides, "batch.micro_size=1", "checkpoint.save_every=2"]
    one = [*overrides, "batch.micro_size=2", "checkpoint.save_every=2"]
    whole = pair.run("leg", **common, output=str(tmp_path / "whole"), overrides=two)
    there = {**common, "output": str(tmp_path / "run")}
    parts = pair.run("leg", **there, overrides=two, stop_after=2)
    parts += [pair_jobs.leg(**there, overrides=one, stop_after=4)]
    parts += pair.run("leg", **there, overrides=two)
    assert sorted(chain(*parts)) == sorted(chain(*whole))
    found, expected = losses(tmp_path / "run"), losses(tmp_path / "whole")
    assert set(found) >= {1, 3, 5, 6}
    assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-5)
    ends = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("run", "whole")]
    for name, tensor in ends[1].items():  # the tokenizer's is the average
        torch.testing.assert_close(ends[0][name], tensor, atol=5e-4, rtol=1e-3)
