"""What a checkpoint says of an engine: whole, bit for bit, and good for an engine of any other shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_engine
import torch

from common import dist
from common.errors import UserError
from common.training.checkpoint import Checkpoints
from common.training.engine_state import engine_tensors, load_engine_tensors, share_out
from common.training.progress import Progress
from common.training.state import TrainingState

pytestmark = pytest.mark.slow

# All others are tried by `python -m benchmarks.any_world`, where trainers make them.
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"zero_stage": 0},
    "copies": {"zero_stage": 0, "precision": "bf16"},
    "flat": {"zero_stage": 1},
    "flat offload": {"zero_stage": 2, "precision": "bf16", "offload": "cpu"},
    "flat muon": {"zero_stage": 2, "precision": "bf16", "muon": True},
    "partitioned": {"zero_stage": 3, "precision": "bf16"},
    "partitioned offload": {"zero_stage": 3, "offload": "cpu"},
}
# In bfloat16 a sum in another order may round to another of 8 bits; Muon makes small values as large as great ones.
ROUNDING = {"fp32": 2e-6, "bf16": 1e-3, "muon": 2e-2}


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    dist.start()


@pytest.mark.parametrize("name", SHAPES)
def test_two_ranks_then_one_then_two(name: str, pair: Any, tmp_path: Path) -> None:
    shape = SHAPES[name]
    at = {number: str(tmp_path / number) for number in ("whole", "two", "same", "one", "back")}
    whole = pair.run("engine", shape=shape, to=at["whole"], steps=6)[0]
    two = pair.run("engine", shape=shape, to=at["two"], steps=2)[0]
    # Bit-equal on as many ranks.
    same = pair.run("engine", shape=shape, to=at["same"], of=at["two"], start=2, steps=6)[0]
    assert two + same == whole
    assert_equal(at["same"], at["whole"])
    # On another number bit-equal as long as nobody trains, and then within rounding.
    one = tiny_engine.go_on(shape, at["one"], 2, 4, at["two"])
    assert_equal(at["one"] + "_loaded", at["two"])
    back = pair.run("engine", shape=shape, to=at["back"], of=at["one"], start=4, steps=6)[0]
    assert_equal(at["back"] + "_loaded", at["one"])
    rounding = ROUNDING["muon" if "muon" in shape else shape.get("precision", "fp32")]
    assert two + one + back == pytest.approx(whole, abs=rounding)


def test_any_stage_goes_on_from_any(tmp_path: Path) -> None:
    start = str(tmp_path / "start")
    tiny_engine.go_on({"zero_stage": 3}, start, steps=3)
    held = tiny_engine.saved(start)
    # Of all that there is, the odd ones are there, once.
    assert {
        "tiny/weight/embedding.weight",
        "tiny/exp_avg_sq/unused.bias",
        "tiny/step/layers.0.bias",
    } < held.keys()
    assert "tiny/weight/frozen.bias" in held and "tiny/exp_avg/frozen.bias" not in held
    assert "tiny/weight/head.weight" not in held and "tiny/buffer/scratch" not in held
    assert held["tiny/buffer/seen"] == 6 and held["tiny/step/layers.0.weight"] == 3
    for number, shape in enumerate(
        ({"zero_stage": 0}, {"zero_stage": 2, "offload": "cpu"}, {"zero_stage": 3})
    ):
        to = str(tmp_path / str(number))
        tiny_engine.go_on(shape, to, 3, 3, start)
        assert_equal(to, start)


def test_what_is_frozen_can_be_left_out_and_a_wrong_shape_is_told() -> None:
    engine = tiny_engine.build({"zero_stage": 1})
    tensors = dict(engine_tensors(engine, "tiny", frozen=False))
    assert not any("frozen" in key for key in tensors)
    load_engine_tensors(engine, "tiny", tensors.__getitem__, frozen=False)
    tensors["tiny/weight/layers.0.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"there: tiny/weight/layers\.0\.bias: the recipe's is 9, the"):
        load_engine_tensors(engine, "tiny", tensors.__getitem__, frozen=False, source="there")


def test_a_state_that_has_not_begun_is_zero_and_can_be_gone_back_to() -> None:
    engine = tiny_engine.build({"zero_stage": 1})
    fresh = dict(engine_tensors(engine, "tiny"))
    assert not fresh["tiny/exp_avg/layers.0.weight"].any() and fresh["tiny/step/layers.0.weight"] == 0
    first = tiny_engine.train(engine, 0, 2)
    load_engine_tensors(engine, "tiny", fresh.__getitem__)
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in engine_tensors(engine, "tiny"))
    assert tiny_engine.train(engine, 0, 1) == first[:1]


def test_a_checkpoint_holds_engines_with_what_is_frozen_or_without(tmp_path: Path) -> None:
    def state(seed: int) -> TrainingState:
        engines = {name: tiny_engine.build({"zero_stage": 1}, seed) for name in ("whole", "learned")}
        return TrainingState(engines, {}, Progress(4), without_frozen=("learned",))

    saved, checkpoints = state(0), Checkpoints(tmp_path / "checkpoints", keep=1)
    tiny_engine.train(saved.engines["learned"], 0, 2)
    saved.progress.step = 2
    saved.save(checkpoints)
    newest = checkpoints.newest()
    assert newest is not None and newest.record["engines"]["learned"] == {"steps": 2, "dropped": 0}
    held = newest.keys()
    frozen = {key for key in held if "frozen" in key}
    assert frozen == {"whole/weight/frozen.bias", "whole/weight/frozen.weight"}
    resumed = state(1)
    resumed.load(newest)
    assert [engine.global_steps for engine in resumed.engines.values()] == [0, 2]
    for name, engine in resumed.engines.items():
        theirs = dict(engine_tensors(saved.engines[name], name, frozen=name == "whole"))
        mine = engine_tensors(engine, name, frozen=name == "whole")
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine)


def test_parameters_are_shared_out_evenly() -> None:
    sizes = {f"p{i}": 10 + i for i in range(20)}
    owner = share_out(sizes, 3)
    loads = [sum(size for name, size in sizes.items() if owner[name] == rank) for rank in range(3)]
    assert set(owner) == set(sizes) and max(loads) - min(loads) <= max(sizes.values())


def assert_equal(one: str, other: str) -> None:
    left, right = tiny_engine.saved(one), tiny_engine.saved(other)
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]), key
