"""The ablations: which trainings they are, what is not done twice, what a failure says, and the table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from common.config import load_config
from common.errors import UserError
from scripts.ablations.codebook import run_of
from scripts.ablations.figures import draw_curves, draw_trade
from scripts.ablations.runs import RECIPES, Run, carry_out, scores
from scripts.ablations.table import spread, write_table
from scripts.ablations.training_strategy import DISTILLED, END_TO_END, TWO_STAGES, chain_of
from tokenizer.config import TokenizerConfig


def options(out: Path, **more: object) -> argparse.Namespace:
    values = {
        "launcher": "false",
        "recipe": RECIPES / "demo_stage1.yaml",
        "jobs": 2,
        "overrides": [],
        "out": out,
    }
    return argparse.Namespace(**{**values, "images": "x", "score": "", **more})


def finish(run: Run, out: Path, psnr: float) -> None:
    folder = out / run.name / "reconstruction"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"scores": {"psnr": psnr, "usage": 1.0}}))


def test_the_runs_of_table_5_are_sound_recipes() -> None:
    for dim in (32, 192):
        config = load_config(
            TokenizerConfig, RECIPES / "demo_stage1.yaml", [*run_of(256, dim, 1, 30).overrides]
        )
        assert (config.model.codebook_size, config.model.codebook_dim) == (256, dim)
        assert (config.seed, config.steps) == (1, 30)


@pytest.mark.parametrize(
    ("strategy", "frozen", "distillation"),
    [(END_TO_END, [False], [0.0]), (DISTILLED, [False], [0.02]), (TWO_STAGES, [True, False], [0.0, 0.02])],
)
def test_the_chains_of_table_6(
    strategy: str, frozen: list[bool], distillation: list[float], tmp_path: Path
) -> None:
    chosen = options(tmp_path, steps=301, encoder_lr=1e-3, distillation=0.02)
    chain = chain_of(strategy, 1, chosen)
    configs = [load_config(TokenizerConfig, RECIPES / "demo_stage1.yaml", [*run.overrides]) for run in chain]
    assert [config.model.freeze_encoder for config in configs] == frozen
    assert [config.loss.distillation for config in configs] == distillation
    assert sum(config.steps for config in configs) == 301  # equal length, whatever the strategy
    assert len(chain) == 1 or configs[1].init_from == str(tmp_path / chain[0].name / "model")


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    run = run_of(8, 8, 0, 10)
    finish(run, tmp_path, 20.0)
    carry_out([[run]], options(tmp_path))  # its launcher could only fail
    assert scores(run, tmp_path)["psnr"] == 20.0


def test_a_failed_run_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    done, broken, after = (Run(name=name, overrides=()) for name in ("done", "broken", "after"))
    finish(done, tmp_path, 20.0)
    with pytest.raises(UserError, match=r"broken\.log: exit code 1") as failure:
        carry_out([[broken, after], [done]], options(tmp_path))
    assert "after" not in str(failure.value)  # it never began
    assert not (tmp_path / "after.log").exists()


def test_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = {
        "256 x 8": [{"psnr": 20.0, "usage": 0.5}, {"psnr": 21.0, "usage": 0.7}],
        "512 x 8": [{"psnr": 22.0, "usage": 1.0}, {"psnr": 22.0, "usage": 1.0}],
    }
    write_table(tmp_path / "table.md", "codes", measured, ["a note"])
    text = (tmp_path / "table.md").read_text()
    assert "| 256 x 8 | 20.50 ± 0.50 | 0.600 ± 0.100 |" in text and "SSIM" not in text
    assert capsys.readouterr().out.strip() == text.strip()
    draw_curves(tmp_path / "curves.png", {"codes": measured}, dashed="512 x 8")
    draw_trade(tmp_path / "trade.png", measured, "PSNR", "usage")
    for name in ("curves", "trade"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 200


def test_one_seed_has_no_range() -> None:
    assert spread([1.25], 1) == "1.2" and spread([1.0, 2.0], 1) == "1.5 ± 0.5"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codebook", "training_strategy"])
def test_the_help_names_the_command_of_the_paper(name: str) -> None:
    command = [sys.executable, "-m", f"scripts.ablations.{name}", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "siglip2_so400m_256_imagenet.yaml" in shown and "--launcher deepspeed" in shown
