"""A run's folder where a model is expected: every command takes it, or says in a line what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from common.models.run_folder import model_of
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae
from common.models.weight_files import resolve_folder
from evals import preflight


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """In the middle of training."""
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step_00000003").mkdir(parents=True)
    (checkpoints / "latest").write_text("step_00000003\n")
    (tmp_path / "run" / "config.yaml").write_text("steps: 6\n")
    return tmp_path / "run"


def test_a_run_that_has_ended_stands_for_its_model(run: Path) -> None:
    VQRAE.from_encoder(build_encoder(tiny.SIGLIP), 32, 16, 4).save_pretrained(run / "model")
    assert resolve_folder(str(run)) == run / "model" == resolve_folder(str(run / "model"))
    assert load_vqrae(str(run))[1] == run / "model"
    assert preflight.model_with_config(str(run), "").found and preflight.model(str(run)).found


@pytest.mark.parametrize(
    "look", [resolve_folder, load_vqrae, lambda run: preflight.model_with_config(run, "")]
)
def test_a_run_that_goes_on_names_the_command(look, run: Path) -> None:
    with pytest.raises(UserError) as error:
        look(str(run))
    assert str(error.value) == (
        f"{run}: a run that has left no model yet; `vqrae export {run}` makes one of its newest checkpoint"
    )


def test_a_model_that_the_run_has_left_behind_is_not_taken_in_silence(run: Path) -> None:
    (run / "model").mkdir()
    os.utime(run / "model", (1e9, 1e9))
    with pytest.raises(
        UserError, match=r"went on after it had left .*model; name that folder, or `vqrae export"
    ):
        model_of(run)
    assert model_of(run / "model") == run / "model"


def test_other_folders_are_what_they_are(run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, run / "checkpoints", tmp_path / "gone"):
        assert model_of(folder) == folder
    (run / "config.json").write_text("{}")  # a model, whatever lies beside it
    assert model_of(run) == run
