"""Poison in a step, on two ranks: the table of docs/runs.md ("What a bad step does"), row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from poison import BAD_STEP

INF = float("inf")
ROWS: dict[str, dict[str, Any]] = {
    "gradient of one rank, no ZeRO": {"what": "gradient", "stage": 0},
    "gradient of one rank, no ZeRO, autocast": {"what": "gradient", "stage": 0, "precision": "bf16_autocast"},
    "gradient of one rank, no ZeRO, Muon": {"what": "gradient", "stage": 0, "muon": True},
    "gradient of one rank, no ZeRO, bfloat16": {"what": "gradient", "stage": 0, "precision": "bf16"},
    "gradient of one rank, ZeRO-1": {"what": "gradient", "stage": 1},
    "gradient of one rank, ZeRO-1, bfloat16": {"what": "gradient", "stage": 1, "precision": "bf16"},
    "gradient of one rank, ZeRO-2": {"what": "gradient", "stage": 2},
    "gradient of one rank, ZeRO-2, Muon": {"what": "gradient", "stage": 2, "muon": True},
    "gradient of one rank, ZeRO-3, bfloat16": {"what": "gradient", "stage": 3, "precision": "bf16"},
    "gradient of all ranks": {"what": "gradient", "stage": 2, "rank": None},
    "gradient infinite": {"what": "gradient", "stage": 2, "value": INF},
    "gradient infinite, no ZeRO": {"what": "gradient", "stage": 0, "value": INF},
    "loss of one rank, no ZeRO": {"what": "loss", "stage": 0},
    "loss of one rank, ZeRO-2": {"what": "loss", "stage": 2},
    "loss of one rank, ZeRO-3": {"what": "loss", "stage": 3},
    "loss infinite": {"what": "loss", "stage": 1, "value": INF},
    "weight of one rank, no ZeRO": {"what": "weight", "stage": 0},
    "weight of one rank, ZeRO-1": {"what": "weight", "stage": 1},
    "weight of one rank, ZeRO-3": {"what": "weight", "stage": 3},
}


@pytest.fixture(scope="module")
def seen(pair: Any) -> Callable[[str], list[dict[str, Any]]]:
    """Row -> what both ranks saw."""
    ranks = pair.run("poisoned", poisons=list(ROWS.values()))
    return lambda row: [results[list(ROWS).index(row)] for results in ranks]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith("weight")])
def test_a_bad_step_is_dropped_on_all_ranks_and_told(row: str, seen: Any) -> None:
    for result in seen(row):
        assert result["error"] is None and result["finite"]
        assert result["applied"] == [step != BAD_STEP for step in range(1, 6)]
        assert result["counts"]["skipped_steps"] == 1
        assert result["grad_norm"] > 0
        (line,) = result["said"]
        assert f"step {BAD_STEP}: dropped by small" in line and "0.weight" in line
        culprit = "0, 1" if ROWS[row].get("rank", 1) is None else "1"
        assert f"gradients of small not finite (from rank {culprit})" in line
        assert result["counts"]["nonfinite_losses"] == (ROWS[row]["what"] == "loss")
        if ROWS[row]["what"] == "loss":
            assert f"loss loss not finite on rank 1 (first at step {BAD_STEP})" in line
            assert f"samples on rank 1: sample {BAD_STEP}.0, sample {BAD_STEP}.1" in line


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("weight")])
def test_a_bad_weight_ends_the_run_and_is_named(row: str, seen: Any) -> None:
    for result in seen(row):
        assert "small: 0.weight on rank 1" in result["error"], result
