"""Checkpoints: what is written comes back, what stays, and what a disk that refuses leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Pair
from full_disk import full_disk
from torch import Tensor

from common.errors import UserError
from common.training import checkpoint as module
from common.training.checkpoint import CheckpointConfig, Checkpoints
from common.training.stored import share
from common.training.stored.manifest import MANIFEST, RECORD


def tensors_of(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {f"engine/weight/{name}": torch.randn(40, 5, generator=generator) for name in "abcd"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(step, tensors_of(step).items(), {"step": step})


def test_what_is_saved_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every type and shape to the bit, over several files; what shares memory or lies in strides, too."""
    monkeypatch.setattr(share, "FILE_BYTES", 100)
    whole = torch.randn(6, 7)
    given = {
        "float": whole,
        "the same memory": whole,
        "a part of it": whole[2:],
        "in strides": whole.t(),
        "bfloat16": torch.randn(3, 3).bfloat16(),
        "int64": torch.tensor([2**62, -1]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "no dimension": torch.tensor(7.0),
        "nothing": torch.empty(0, 4),
        "special": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
        "learns": torch.nn.Parameter(torch.ones(2)),
    }
    record = {"step": 7, "position": 12345678901234567, "rate": 0.1 + 0.2, "text": "ü", "none": None}
    path = Checkpoints(tmp_path, keep=1).save(7, given.items(), record)
    found = Checkpoints(tmp_path, keep=1).newest()
    assert found is not None and found.path == path and found.step == 7 and found.record == record
    assert sorted(found.keys()) == sorted(given) and len(list(path.glob("*.safetensors"))) > 3
    for key, tensor in given.items():
        back = found.read(key)
        assert back.dtype == tensor.dtype and back.shape == tensor.shape
        assert bits(back) == bits(tensor)
    assert all(path.suffix in (".json", ".safetensors") for path in path.iterdir())  # nothing else, no pickle
    with pytest.raises(UserError, match="step_00000007: holds no ema; it was saved by another recipe"):
        found.read("ema")


def test_what_nobody_or_everybody_saves_is_an_error(tmp_path: Path) -> None:
    for given, said in (
        ([("a", torch.ones(1)), ("b", None)], "b: no rank gave it"),
        ([("a", torch.ones(1)), ("a", torch.ones(2))], "a: given twice"),
    ):
        with pytest.raises(UserError, match=said):
            Checkpoints(tmp_path, keep=1).save(1, given, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        Checkpoints(tmp_path, keep=1).save(1, [], {"loss": float("nan")})
    assert Checkpoints(tmp_path, keep=1).newest() is None


def test_the_newest_stay_and_milestones_and_what_is_protected(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=4)
    mine = tmp_path / "step_00000001_of_mine"
    mine.mkdir()
    for step in range(1, 10):
        path = save(checkpoints, step)
        if step == 3:
            checkpoints.protected = {path}
        found = checkpoints.newest()
        assert found is not None and found.path == path
    stay = [f"step_{step:08d}" for step in (3, 4, 8, 9)]
    assert names(tmp_path) == sorted(["latest", mine.name, *stay])


def test_a_config_keeps_at_least_one() -> None:
    assert CheckpointConfig(save_every=5, keep_every=10).keep == 2
    for fields, said in (
        ({"save_every": 0}, "save_every: expected 1 or more"),
        ({"save_every": 1, "keep": 0}, "keep: expected 1 or more"),
        ({"save_every": 4, "keep_every": 6}, r"keep_every: expected a multiple of save_every \(4\)"),
    ):
        with pytest.raises(ValueError, match=said):
            CheckpointConfig(**fields)


def fails(attempt: Any) -> str:
    with pytest.raises(UserError) as error:
        attempt()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_full_disk_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the room ends: in the first file of tensors, in a later one, in the record, in the manifest."""
    monkeypatch.setattr(share, "FILE_BYTES", 900)
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert "there is no earlier checkpoint" in fails(lambda: nearly_full(checkpoints, 2, 64))
    whole = save(checkpoints, 1)
    manifest = (whole / MANIFEST).stat().st_size
    for room, file in ((64, "weights_rank00000_00000"), (700, RECORD), (manifest - 50, MANIFEST)):
        said = fails(lambda room=room: nearly_full(checkpoints, 2, room))
        assert file in said and "cannot be written: " in said and "File too large" in said, said
        assert said.endswith(f"the last whole checkpoint is {whole}")
        assert names(tmp_path) == ["latest", whole.name]
        assert (tmp_path / "latest").read_text() == f"{whole.name}\n"
        found = Checkpoints(tmp_path, keep=1).newest()
        assert found is not None and found.path == whole
    assert save(checkpoints, 2).is_dir() and names(tmp_path) == ["latest", "step_00000002"]


def nearly_full(checkpoints: Checkpoints, step: int, room: int) -> None:
    record = {"long": "x" * (1500 if room > 100 else 1)}
    tensors = tensors_of(step) if room < 100 else {"a": torch.ones(1)}
    if room > 1000:
        record, tensors = {}, tensors_of(step)
    with full_disk(room):
        checkpoints.save(step, tensors.items(), record)


def test_a_folder_that_vanished_or_cannot_be_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    checkpoints = Checkpoints(run / "checkpoints", keep=1)
    assert checkpoints.newest() is None
    assert names(run) == []  # a run that has saved nothing may start anew
    save(checkpoints, 1)
    shutil.rmtree(run / "checkpoints")
    assert f"{run / 'checkpoints'}: gone since the run began" in fails(lambda: save(checkpoints, 2))
    assert names(run) == []
    shutil.rmtree(run)
    assert "run: cannot be written: No such file" in fails(
        lambda: Checkpoints(run / "checkpoints", 1).newest()
    )
    run.touch()  # as for root, whom no mode keeps from writing, a read-only folder
    assert "run: cannot be written: Not a directory" in fails(lambda: save(Checkpoints(run / "c", 1), 1))


def test_a_killed_save_leaves_nothing_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)
    for name in ("settle_folder", "write_manifest", "write_text"):

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, killed)
            save(checkpoints, 2)
        assert (tmp_path / ".step_00000002.partial").is_dir()
        found = Checkpoints(tmp_path, keep=2).newest()
        assert found is not None and found.step == 1
    save(checkpoints, 3)  # a later one clears it away
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000003"]


def test_two_ranks_write_their_shares_and_agree(pair: Pair, tmp_path: Path) -> None:
    for found in pair.run("checkpoint_of_two", folder=str(tmp_path / "a")):
        assert found == {"keys": 8, "step": 5, "right": True, "files": 2}


def test_what_one_rank_cannot_write_ends_both_with_one_line(pair: Pair, tmp_path: Path) -> None:
    for rank in (0, 1):
        folder = tmp_path / str(rank)
        said = pair.run("checkpoint_that_does_not_fit", folder=str(folder), full=rank)
        assert said[0] == said[1] and "File too large" in said[0]
        assert f", on rank {rank}; the last whole checkpoint is" in said[0]
        assert names(folder) == ["latest", "step_00000001"]


def test_what_one_rank_finds_damaged_both_leave_alone(pair: Pair, tmp_path: Path) -> None:
    assert pair.run("checkpoint_damaged_between", folder=str(tmp_path / "a")) == [1, 1]


def test_all_ranks_go_by_what_rank_0_reads(pair: Pair, tmp_path: Path) -> None:
    assert pair.run("stale_checkpoints", folder=str(tmp_path / "a")) == [2, 2]


def test_a_folder_that_not_all_ranks_see_is_refused(pair: Pair, tmp_path: Path) -> None:
    for said in pair.run("unshared_checkpoints", folder=str(tmp_path)):
        assert "rank 1 does not see what rank 0 writes there" in said and "share" in said


def test_a_file_holds_as_many_tensors_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "FILE_BYTES", 100)
    tensors = [(str(number), torch.zeros(10)) for number in range(7)]  # 40 bytes each
    assert [list(group) for group in share._groups(tensors)] == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]]
