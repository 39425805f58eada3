"""Optimizer groups, schedules, averages, checkpoints, metrics: each against a plain statement of its rule."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.file_baton import FileBaton
from transformers import TrainingArguments

from common import operator_locks
from common.errors import UserError
from common.metrics.code_usage import CodeUsage
from common.training.checkpoint import Checkpoints
from common.training.ema import ShardedEMA
from common.training.engine import BatchConfig, EngineConfig, deepspeed_config
from common.training.metrics import Terms
from common.training.optim import MuonConfig, cosine_factor, parameter_groups, warmup_steps, with_muon
from common.training.progress import Progress
from common.training.records import read_records
from common.training.reporter import LoggingConfig, Reporter
from common.training.state import Fact, TrainingState


def test_only_matrices_decay_and_frozen_parameters_stay_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 4), nn.Conv2d(3, 2, 1))
    model.positions = nn.Parameter(torch.zeros(7))
    model[3].bias.requires_grad_(False)
    decay, rest = parameter_groups("decoder", [model], lr=0.1, weight_decay=0.5)
    assert decay["name"] == "decoder" and {id(p) for p in decay["params"]} == {
        id(model[0].weight),
        id(model[3].weight),
    }
    others = {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].weight, model.positions)
    }
    assert rest["weight_decay"] == 0 and {id(p) for p in rest["params"]} == others


def test_muon_takes_the_matrices_but_embeddings_and_head() -> None:
    embedding, layer, norm, head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 5)
    plain = parameter_groups("model", [nn.Sequential(embedding, layer, norm, head)], lr=0.1, weight_decay=0.5)
    groups = {group["name"]: group for group in with_muon(plain, MuonConfig(lr=0.02), head.weight)}
    muon = groups.pop("model/muon")
    assert [id(p) for p in muon["params"]] == [id(layer.weight)]
    assert (muon["use_muon"], muon["lr"], muon["weight_decay"]) == (True, 0.02, 0.5)
    assert [id(p) for p in groups["model"]["params"]] == [id(head.weight)]
    assert not any(group["use_muon"] for group in groups.values())
    assert len(groups["model/no_decay"]["params"]) == 5  # embedding, both of the norm, two biases


def test_the_cosine_meets_its_ends() -> None:
    factor = cosine_factor(peak=4e-4, end=1e-4, warmup=10, total=110)
    assert factor(0) == 0 and factor(5) == 0.5 and factor(10) == 1
    assert math.isclose(4e-4 * factor(60), 2.5e-4) and math.isclose(4e-4 * factor(110), 1e-4) == math.isclose(
        4e-4 * factor(500), 1e-4
    )


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.1, 1 / 3, 1.0])
def test_a_share_of_warm_up_is_the_trainers(ratio: float, tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=0)
    share = arguments.warmup_steps = min(ratio, 0.999999)  # 1 and more would be steps
    for steps in (1, 7, 100, 2180, 2326, 5198):
        assert warmup_steps(share, steps) == arguments.get_warmup_steps(steps)
    assert warmup_steps(0.03, 2180) == 66  # of 65.4


def test_accumulation_follows_from_the_batch_and_indivisible_is_refused() -> None:
    batch = BatchConfig(global_size=1024, micro_size=32)
    assert [batch.accumulation(world) for world in (1, 8, 32)] == [32, 4, 1]
    for world in (3, 64):
        with pytest.raises(UserError, match=r"batch\.global_size: 1024 is no multiple"):
            batch.accumulation(world)


def test_deepspeed_is_told_what_the_recipe_says() -> None:
    engine = EngineConfig(zero_stage=3, precision="bf16", offload="nvme", nvme_path="fast")
    config = deepspeed_config(engine, BatchConfig(global_size=64, micro_size=2), world=8, max_grad_norm=0.5)
    assert (
        config["train_batch_size"],
        config["gradient_accumulation_steps"],
        config["gradient_clipping"],
    ) == (64, 4, 0.5)
    assert config["bf16"] == {"enabled": True} and "torch_autocast" not in config
    assert config["zero_optimization"]["offload_param"] == {"device": "nvme", "nvme_path": "fast"}


def test_the_average_follows_its_formula_and_leaves_the_model_as_it_was() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    ema, expected = ShardedEMA(model), model.weight.detach().clone()
    for step in range(5):
        model.weight.data.normal_()
        ema.update()
        decay = min(0.999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), own)
    resumed = ShardedEMA(model)
    resumed.load_state_dict(ema.state_dict())
    resumed.load_tensors(dict(ema.tensors()).__getitem__)
    with resumed.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert resumed.updates == 5


def test_averages_go_on_with_any_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*[nn.Linear(2, width) for width in (3, 4, 5)])

    def ranks(world: int) -> list[ShardedEMA]:
        monkeypatch.setattr("common.dist.world", lambda: world)
        averages = []
        for rank in range(world):
            monkeypatch.setattr("common.dist.rank", lambda rank=rank: rank)
            averages.append(ShardedEMA(model))
        return averages

    held = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for world in (2, 1, 3, 2):
        there = ranks(world)
        told = []
        for rank, average in enumerate(there):
            monkeypatch.setattr("common.dist.rank", lambda rank=rank: rank)
            average.load_tensors(held.__getitem__)
            told.append(dict(average.tensors()))
        for name, value in held.items():
            (mine,) = [tensors[name] for tensors in told if tensors[name] is not None]
            assert torch.equal(mine, value)


def recipe_of(tower: str, **parts: Any) -> TrainingState:
    """Without engines, which tests/common/test_engine_state.py has."""

    def check(saved: str, checkpoint: str) -> None:
        if saved != tower:
            raise UserError(f"{checkpoint}: trained on {saved}, not on {tower}")

    return TrainingState(
        engines={"absent": None},
        parts={**parts, "absent": None},
        progress=Progress(4, step=7, position=32),
        facts={"tower": Fact(tower, check)},
    )


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    part, resumed = nn.Linear(2, 2), nn.Linear(2, 2)
    average, followed = ShardedEMA(part), ShardedEMA(resumed)
    average.update()
    state, again = recipe_of("here", part=part, ema=average), recipe_of("here", part=resumed, ema=followed)
    state.save(checkpoints)
    newest = checkpoints.newest()
    assert newest is not None and sorted(newest.keys()) == [
        "part/ema/bias",
        "part/ema/weight",
        "part/part/bias",
        "part/part/weight",
    ]
    assert newest.record["world"] == 1 and newest.record["parts"]["ema"] == {"updates": 1}
    again.progress.step = again.progress.position = 0
    again.load(newest)
    assert (again.progress.step, again.progress.position) == (7, 32)
    assert torch.equal(resumed.weight, part.weight) and followed.updates == 1
    assert all(torch.equal(followed.shadow[name], average.shadow[name]) for name in average.shadow)


def test_a_checkpoint_of_another_recipe_is_not_resumed_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    recipe_of("here").save(checkpoints)
    newest = checkpoints.newest()
    assert newest is not None
    with pytest.raises(UserError, match="step_00000007: trained on here, not on there"):
        recipe_of("there").load(newest)
    with pytest.raises(UserError, match="step_00000007: holds no ema; it was saved by another recipe"):
        recipe_of("here", ema=nn.Linear(2, 2)).load(newest)


def test_what_a_step_draws_follows_from_its_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four micro-batches of a step, on one rank or on two: the same draws, whatever was drawn before."""

    def drawn(world: int) -> list[float]:
        monkeypatch.setattr("common.dist.world", lambda: world)
        values = []
        for turn in range(4 // world):
            for rank in range(world):
                monkeypatch.setattr("common.dist.rank", lambda rank=rank: rank)
                torch.rand(turn + world)
                Progress(4, step=9).seed_draws(3, turn)
                values.append(float(torch.rand(())))
        return values

    assert drawn(1) == drawn(2) == drawn(4) and len(set(drawn(1))) == 4
    monkeypatch.undo()
    for progress, seed in ((Progress(4, step=9), 4), (Progress(4, step=8), 3)):
        progress.seed_draws(seed, 0)
        assert float(torch.rand(())) not in drawn(1)


def test_terms_are_means() -> None:
    terms = Terms(torch.device("cpu"))
    for step, value in enumerate((1.0, 2.0, 6.0)):
        terms.add(step, l2=torch.tensor(value))
    assert terms.take() == {"l2": 3.0} and terms.take() == {}


def test_usage_over_a_whole_set() -> None:
    usage = CodeUsage(8)
    for codes in ([[0, 0], [1, 1]], [[2, 2], [3, 3]]):
        usage.update(torch.tensor([codes]))
    found = usage.compute()
    assert found["usage"] == 0.5 and math.isclose(found["perplexity"], 4.0) and found["dead_codes"] == 4
    assert usage.take()["usage"] == 0.5 and usage.compute()["usage"] == 0


def test_metrics_past_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    config = LoggingConfig(log_every=1, picture_every=1, evaluate_every=1, writers=())
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        reporter = Reporter(tmp_path, config, 4, start)
        for step in steps:
            reporter.line(step, {"loss": float(step + 10 * start)})
        reporter.close("done")
    lines = read_records(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, 2), (3, 23), (4, 24)]


def test_a_lock_that_a_killed_build_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name, age in (("fresh", 10), ("left", operator_locks.OLD + 60), ("held", operator_locks.OLD + 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        os.utime(tmp_path / name / "lock", (time.time() - age,) * 2)
    with (tmp_path / "held" / "lock").open():
        operator_locks.remove_left_locks()
    said = capsys.readouterr().err
    assert str(tmp_path / "left" / "lock") in said and "6 minutes old" in said and len(said.splitlines()) == 1
    assert [lock.parent.name for lock in sorted(tmp_path.rglob("lock"))] == ["fresh", "held"]


def test_a_lock_that_grows_old_while_a_build_waits_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own wait ends: it has no limit of its own."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(operator_locks, "POLL", 0.05)
    monkeypatch.setattr(operator_locks, "OLD", 0.5)
    (tmp_path / "lock").touch()
    operator_locks.watch_locks()
    waiting = threading.Thread(target=FileBaton(str(tmp_path / "lock")).wait, daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()
