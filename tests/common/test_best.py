"""The best checkpoint stays while newer ones come and go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import torch

from common.config import ConfigError
from common.errors import UserError
from common.training.best import BEST, Best, read_best
from common.training.checkpoint import Checkpoints

SCORES = {"psnr": True, "rfid": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "checkpoints"


def save_and_offer(checkpoints: Checkpoints, best: Best, values: Mapping[int, float]) -> None:
    for step, value in values.items():
        checkpoints.save(step, iter([("engine/weight/w", torch.full((2,), value))]), {"step": step})
        best.offer(step, {"psnr": value, "rfid": value})


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("score", "kept"), [("psnr", 3), ("rfid", 2), (None, None)])
def test_the_best_outlives_rotation(
    score: str | None, kept: int | None, background: bool, folder: Path
) -> None:
    checkpoints = Checkpoints(folder, keep=2, background=background)
    best = Best(checkpoints, score, SCORES)
    save_and_offer(checkpoints, best, {1: 20.0, 2: 18.0, 3: 25.0, 4: 24.0, 5: 24.5, 6: float("nan")})
    checkpoints.wait()
    assert steps(folder) == ([kept] if kept else []) + [5, 6]
    if kept:
        assert json.loads((folder / BEST).read_text()) == {
            "checkpoint": f"step_{kept:08d}",
            "score": score,
            "value": {3: 25.0, 2: 18.0}[kept],
        }


def test_a_resumed_run_still_knows_its_best(folder: Path) -> None:
    save_and_offer(
        checkpoints := Checkpoints(folder, keep=1), Best(checkpoints, "psnr", SCORES), {1: 25.0, 2: 20.0}
    )
    checkpoints = Checkpoints(folder, keep=1)
    best = Best(checkpoints, "psnr", SCORES)
    save_and_offer(checkpoints, best, {3: 21.0, 4: 22.0})
    assert steps(folder) == [1, 4]
    save_and_offer(checkpoints, best, {5: 26.0, 6: 1.0})
    assert steps(folder) == [5, 6]
    # Without a score from now on, nothing is looked for, and what was best is not lost.
    save_and_offer(checkpoints := Checkpoints(folder, keep=1), Best(checkpoints, None, SCORES), {7: 30.0})
    assert steps(folder) == [5, 7]


def test_what_was_not_saved_is_not_the_best(folder: Path) -> None:
    """In a row of bad steps the guard saves nothing, and evaluates all the same."""
    checkpoints = Checkpoints(folder, keep=1)
    best = Best(checkpoints, "psnr", SCORES)
    save_and_offer(checkpoints, best, {1: 20.0})
    best.offer(2, {"psnr": 30.0})
    assert read_best(folder).checkpoint == "step_00000001"  # type: ignore[union-attr]


def test_a_checkpoint_that_is_written_anew_is_scored_anew(folder: Path) -> None:
    """A run that went back and took another way may be worse at the same step."""
    checkpoints = Checkpoints(folder, keep=1)
    best = Best(checkpoints, "psnr", SCORES)
    save_and_offer(checkpoints, best, {1: 20.0, 2: 25.0})
    save_and_offer(checkpoints, best, {2: 21.0, 3: 23.0})
    assert read_best(folder).value == 23.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "step_00000001",
        '{"checkpoint": "../../elsewhere", "score": "psnr", "value": 99}',
        '{"checkpoint": "step_00000001", "score": "psnr", "value": NaN}',
        '{"checkpoint": "step_00000077", "score": "psnr", "value": 99}',
        '{"checkpoint": "step_00000001", "score": "psnr", "value": "99"}',
    ],
)
def test_a_damaged_name_is_told_and_found_anew(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_and_offer(checkpoints := Checkpoints(folder, keep=1), Best(checkpoints, "psnr", SCORES), {1: 25.0})
    (folder / BEST).write_text(text)
    with pytest.raises(UserError, match=f"{folder / BEST}: "):
        read_best(folder)
    best = Best(checkpoints, "psnr", SCORES)
    assert "looking for the best anew" in capsys.readouterr().out
    save_and_offer(checkpoints, best, {2: 20.0})
    assert read_best(folder).checkpoint == "step_00000002"  # type: ignore[union-attr]


def test_a_damaged_checkpoint_is_not_the_best(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_and_offer(checkpoints := Checkpoints(folder, keep=1), Best(checkpoints, "psnr", SCORES), {1: 25.0})
    next((folder / "step_00000001").glob("*.safetensors")).write_bytes(b"")
    Best(Checkpoints(folder, keep=1), "psnr", SCORES)
    assert "0 bytes, expected" in capsys.readouterr().out


def test_another_score_begins_anew(folder: Path) -> None:
    save_and_offer(checkpoints := Checkpoints(folder, keep=1), Best(checkpoints, "psnr", SCORES), {1: 25.0})
    save_and_offer(checkpoints, Best(checkpoints, "rfid", SCORES), {2: 30.0, 3: 31.0})
    assert steps(folder) == [2, 3] and read_best(folder).score == "rfid"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ["checkpoint.best=psnt"],
            r"checkpoint.best: expected one of psnr, ssim, usage, perplexity; found 'psnt'",
        ),
        (["checkpoint.best=rfid"], "checkpoint.best: expected one of"),
        (["checkpoint.best=psnr", "evaluation.images=null"], "checkpoint.best: nothing is evaluated"),
        (
            ["checkpoint.best=psnr", "logging.evaluate_every=4"],
            "evaluate_every: expected a multiple of checkpoint",
        ),
    ],
)
def test_what_will_never_be_found_is_refused(overrides: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        tiny.tokenizer_recipe(tmp_path, tmp_path, *overrides)
    tiny.tokenizer_recipe(tmp_path, tmp_path, "checkpoint.best=rfid", "evaluation.distances=[rfid]")
