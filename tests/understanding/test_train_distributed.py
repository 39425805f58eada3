"""Two processes on a CPU: ZeRO-2 and ZeRO-3 train like one process, also where only one rank has an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from common.training.records import read_records
from understanding.batches import BatchPlan
from understanding.train import train


@pytest.fixture(scope="module")
def pretrained(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    train(tiny.understanding_recipe(shelf, run))
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_close(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=5e-5, rtol=1e-3)


def test_pretraining_with_two_processes_is_that_with_one(
    pair: Any, shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    pair.run("train_understanding", shelf=str(shelf), output=str(tmp_path / "two"), overrides=[])
    assert_close(pretrained, tmp_path / "two")


def test_zero_3_with_text_on_one_rank_and_an_image_on_the_other(
    pair: Any, shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    """A plain engine hangs here: one rank would gather the projector and the other would not."""
    mixed = ["data.group=none", "batch.global_size=2", "batch.micro_size=1"]
    overrides = [f"init_from={pretrained / 'model'}", *tiny.FINE_TUNING, *mixed]
    config = tiny.understanding_recipe(shelf, tmp_path / "one", *overrides)
    images = torch.tensor([1] * 8 + [0] * 4).numpy()  # as `tiny.write_conversations` makes them
    plan = BatchPlan(
        torch.ones(12).numpy(), images, usable=images >= 0, global_size=2, seed=config.seed, group="none"
    )
    kinds = [[images[unit[0]] for unit in plan.units(step)] for step in range(plan.steps(2))]
    assert [0, 1] in kinds and [1, 0] in kinds

    train(config)
    jobs = {"shelf": str(shelf), "overrides": overrides}
    pair.run("train_understanding", **jobs, output=str(tmp_path / "two"))
    assert_close(tmp_path / "one", tmp_path / "two")

    # Interrupted and resumed, with parameters and states in parts, it ends where the whole run ended.
    for stop_after in (4, None):
        pair.run("train_understanding", **jobs, output=str(tmp_path / "resumed"), stop_after=stop_after)
    whole, resumed = weights(tmp_path / "two"), weights(tmp_path / "resumed")
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_adapters_with_two_processes_are_those_with_one(
    pair: Any, shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    lora = [f"init_from={pretrained / 'model'}", *tiny.FINE_TUNING, "model.lora={rank: 2, alpha: 4}"]
    train(tiny.understanding_recipe(shelf, tmp_path / "one", *lora))
    pair.run("train_understanding", shelf=str(shelf), output=str(tmp_path / "two"), overrides=lora)
    assert_close(tmp_path / "one", tmp_path / "two")
    one, two = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=5e-5, rtol=1e-3)
    assert any("multi_modal_projector" in name for name in one)


def test_held_out_scores_do_not_depend_on_the_processes(
    pair: Any, shelf: Path, pretrained: Path, tmp_path: Path
) -> None:

    held_out = f"{{annotations: {shelf / 'conversations.json'}, images: {shelf / 'images'}}}"
    overrides = [f"init_from={pretrained / 'model'}", *tiny.FINE_TUNING, "optimizer.lr=1e-12"]
    overrides += [f"evaluation.source={held_out}", "evaluation.limit=11", "epochs=1"]
    train(tiny.understanding_recipe(shelf, tmp_path / "one", *overrides))
    pair.run("train_understanding", shelf=str(shelf), output=str(tmp_path / "two"), overrides=overrides)
    found = []
    for name in ("one", "two"):
        records = read_records(tmp_path / name, "evaluation")
        (line,) = (line for line in records if line.pop("kind") and line["step"] == 3)
        found.append(line)
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0]["samples"] == 11


def test_states_and_parameters_rest_on_the_cpu(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    """Offload changes where things lie and nothing else."""
    overrides = [f"init_from={pretrained / 'model'}", *tiny.FINE_TUNING]
    train(tiny.understanding_recipe(shelf, tmp_path / "here", *overrides))
    train(tiny.understanding_recipe(shelf, tmp_path / "there", *overrides, "engine.offload=cpu"))
    assert_close(tmp_path / "here", tmp_path / "there")
