"""Two processes on a CPU: replicas stay equal, and the same pictures give the same training as one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from common.models.vqrae import VQRAE
from evals.reconstruction import run as reconstruction
from tokenizer.train import train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_both_stages_keep_replicas_equal(pair: Any, pictures: Path, tmp_path: Path, zero_stage: int) -> None:
    assert pair.run("rank_and_world") == [(0, 2), (1, 2)]
    shared = {"pictures": str(pictures)}
    engine = f"engine.zero_stage={zero_stage}"
    one = pair.run("train_tokenizer", **shared, output=str(tmp_path / "one"), overrides=[engine])
    assert one[0]["weights"] == one[1]["weights"]
    stage_2 = [engine, f"init_from={tmp_path / 'one' / 'model'}", *tiny.STAGE_2]
    two = pair.run("train_tokenizer", **shared, output=str(tmp_path / "two"), overrides=stage_2)
    assert two[0]["weights"] == two[1]["weights"] and one[0] != two[0]

    # Interrupted after step 3 and resumed, both stages' states included, it ends where the whole run ended.
    for stop_after in (3, None):
        again = {"output": str(tmp_path / "resumed"), "overrides": stage_2, "stop_after": stop_after}
        pair.run("train_tokenizer", **shared, **again)
    resumed = VQRAE.from_pretrained(tmp_path / "resumed" / "model").state_dict()
    for name, tensor in VQRAE.from_pretrained(tmp_path / "two" / "model").state_dict().items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_train_like_one(pair: Any, pictures: Path, tmp_path: Path, stage: int) -> None:
    overrides = ["model.codebook_start.method=normal", "evaluation.images=null"]
    if stage == 2:
        train(tiny.tokenizer_recipe(pictures, tmp_path / "start", "steps=1", *overrides))
        overrides += [f"init_from={tmp_path / 'start' / 'model'}", *tiny.STAGE_2]
    train(tiny.tokenizer_recipe(pictures, tmp_path / "one", *overrides))
    pair.run("train_tokenizer", pictures=str(pictures), output=str(tmp_path / "two"), overrides=overrides)
    one, two = (VQRAE.from_pretrained(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=1e-3)


def test_two_processes_score_like_one(pair: Any, pictures: Path, tmp_path: Path) -> None:
    """Twelve pictures in batches of five: the ranks' last batches differ."""
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", "steps=1"))
    common = [str(tmp_path / "run" / "model"), "--images", str(pictures), "--batch-size", "5"]
    common += ["--skip-fid", "--skip-lpips", "--workers", "0", "--device", "cpu"]
    reconstruction.main([*common, "--output", str(tmp_path / "one")])
    pair.run("score_pictures", arguments=[*common, "--output", str(tmp_path / "two")])
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["scores"] == two["scores"] and one["counts"] == two["counts"] == {"expected": 12, "scored": 12}
    assert (one["processes"], two["processes"]) == (1, 2)
    rows = [(tmp_path / name / "per_image.jsonl").read_text() for name in ("one", "two")]
    assert [json.loads(line)["key"] for line in rows[0].splitlines()] == [f"{i:03d}.png" for i in range(12)]
    assert rows[0] == rows[1]
