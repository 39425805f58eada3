"""What versions before today's format left is converted, at every stage, and executes nothing."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Pair

from common.errors import UserError
from common.training.checkpoint import Checkpoints
from common.training.stored.pickled import Pickled
from common.training.stored.reading import newest_whole
from scripts.convert_checkpoint import convert

EXECUTED: list[str] = []


class Bomb:
    def __reduce__(self) -> Any:
        return EXECUTED.append, ("bombed",)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of two ranks, without an optimizer's file: as at stage 0."""
    folder = tmp_path / "run" / "checkpoints" / "step_00000006"
    (folder / "net").mkdir(parents=True)
    state = {
        "module": {"a": torch.ones(2), "tied": torch.ones(2), "scale": torch.zeros(1)},
        "buffer_names": ["scale"],
        "shared_params": {"tied": "a"},
        "param_shapes": None,
    }
    torch.save(state, folder / "net" / "mp_rank_00_model_states.pt")
    for rank in range(2):
        shadow = {f"p{rank}": torch.full((3,), float(rank))}
        state = {"step": 6, "ema": {"updates": 6, "shadow": shadow}, "vqrae_sha256": "ab", "tower": "cd"}
        torch.save(state, folder / f"state_rank{rank:05d}.pt")
    (folder.parent / "latest").write_text("step_00000006\n")
    (tmp_path / "run" / "config.yaml").write_text("steps: 6\n")
    return tmp_path / "run"


def converted(run: Path, step: int | None = None) -> Path:
    convert(argparse.Namespace(run=run, step=step, output=None))
    return run.with_name("run_converted")


def test_weights_buffers_and_averages(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    output = converted(run)
    assert f"`vqrae export {output}` makes a model" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    found = newest_whole(output / "checkpoints")
    assert found is not None and found.step == 6
    assert sorted(found.keys()) == ["net/buffer/scale", "net/weight/a", "part/ema/p0", "part/ema/p1"]
    assert found.read("part/ema/p1").tolist() == [1, 1, 1] and found.read("net/weight/a").tolist() == [1, 1]
    assert found.record["facts"] == {"vqrae_sha256": "ab"}
    assert (output / "config.yaml").read_text() == "steps: 6\n"
    with pytest.raises(UserError, match=r"converted: holds weights and no optimizer.*vqrae export"):
        Checkpoints(output / "checkpoints", keep=1).newest()
    with pytest.raises(UserError, match="run_converted: is there already"):
        converted(run)


@pytest.mark.parametrize(
    "name", ["state_rank00001.pt", "net/mp_rank_00_model_states.pt", "net/x_optim_states.pt"]
)
def test_nothing_is_executed_and_nothing_half_written(name: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000006" / name
    for damage in (
        lambda: torch.save({"optimizer_state_dict": Bomb(), "ema": Bomb()}, path),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"\x80\x04no pickle"),
        lambda: torch.save([1], path),
        lambda: torch.save({"module": 3, "ema": 4, "optimizer_state_dict": 5}, path),
    ):
        damage()
        with pytest.raises(UserError) as error:
            converted(run)
        assert "\n" not in str(error.value) and str(path.parent) in str(error.value)
        assert EXECUTED == [] and not run.with_name("run_converted").exists()


def test_what_is_not_there(run: Path) -> None:
    with pytest.raises(UserError, match="step_00000007: not there; there is step_00000006"):
        converted(run, step=7)
    with pytest.raises(UserError, match="no checkpoint of an earlier version"):
        Pickled(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoints"):
        converted(run)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_deepspeed_saved_at_each_stage(stage: int, pair: Pair, tmp_path: Path) -> None:
    """Two ranks, one frozen parameter, sizes that divide by nothing."""
    folder = tmp_path / "step_00000001"
    (weights, _) = pair.run("deepspeed_checkpoint", folder=str(folder), stage=stage)
    found = dict(Pickled(folder).tensors())
    assert found.keys() == {f"net/weight/{name}" for name in weights if name != "scale"} | {
        "net/buffer/scale"
    }
    for name, values in weights.items():
        kind = "buffer" if name == "scale" else "weight"
        assert found[f"net/{kind}/{name}"].tolist() == values, name
