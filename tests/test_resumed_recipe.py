"""A run that is resumed with another recipe: what is applied acts, what is refused leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
import tiny_post_training

import generation.assemble
import generation.train
import post_training.assemble
import post_training.train
import tokenizer.assemble
import tokenizer.train
import understanding.assemble
import understanding.train
from common.config import dump_config
from common.errors import UserError
from common.training.command import RunOptions
from common.training.optim import cosine_factor
from common.training.records import read_records
from tokenizer.train import train

ADAMW = "optimizer.adamw={betas: [0.5, 0.75], weight_decay: 0.25, eps: 1.0e-6, max_grad_norm: 0.5}"
JOBS: dict[str, tuple[Any, Any, str, list[str]]] = {
    "tokenizer": (
        tokenizer,
        "start_generator",
        "steps",
        ["optimizer.decoder_lr=5e-4", "optimizer.end_lr=5e-4", "optimizer.warmup_steps=0"],
    ),
    "understanding": (
        understanding,
        "start_language_side",
        "epochs",
        ["optimizer.lr=5e-4", "optimizer.end_lr=5e-4"],
    ),
    "generation": (generation, "start_generator", "steps", ["optimizer.lr=5e-4"]),
    "post_training": (post_training, "start_policy", "steps", ["optimizer.lr=5e-4"]),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    tiny.write_understanding_shelf(folder)
    tiny_post_training.write_shelf(folder / "drawn")
    return tiny_generator.write_shelf(folder)


def recipe(job: str, shelf: Path, run: Path, *overrides: str) -> Any:
    quiet = ["logging.log_every=1", "logging.picture_every=99", "logging.evaluate_every=99"]
    if job == "tokenizer":
        return tiny.tokenizer_recipe(shelf / "images", run, *quiet, "evaluation.images=null", *overrides)
    if job == "understanding":
        return tiny.understanding_recipe(shelf, run, *quiet, *overrides)
    if job == "post_training":
        return tiny_post_training.recipe(shelf / "drawn", run, *quiet, *overrides)
    quiet += ["samples.prompts=[]", "evaluation.source=null"]
    return tiny_generator.recipe(shelf, run, *quiet, *overrides)


def engines(job: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines that a trainer will start."""
    package, starter, *_ = JOBS[job]
    found: list[Any] = []
    original: Callable[..., Any] = getattr(package.assemble, starter)

    def start(*arguments: Any) -> Any:
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr(package.assemble, starter, start)
    return found


@pytest.mark.parametrize("job", JOBS)
def test_what_is_applied_acts(
    job: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, _, length, rates = JOBS[job]
    one, two = (1, 2) if length == "epochs" else (3, 6)
    run, started = tmp_path / "run", engines(job, monkeypatch)
    package.train.train(recipe(job, shelf, run, f"{length}={one}"))
    capsys.readouterr()
    package.train.train(recipe(job, shelf, run, f"{length}={two}", ADAMW, *rates))
    said = capsys.readouterr().out
    for key in (length, "optimizer.adamw.weight_decay", "optimizer.adamw.betas", rates[0].split("=")[0]):
        assert f"recipe: {key}: " in said
    groups = started[1].optimizer.param_groups
    assert {tuple(group["betas"]) for group in groups} == {(0.5, 0.75)}
    assert {group["weight_decay"] for group in groups} == {0.25, 0.0}
    assert {group["eps"] for group in groups} == {1e-6}
    assert started[1].gradient_clipping() == 0.5
    key = "lr_decoder" if job == "tokenizer" else "lr"
    lines = read_records(run, "train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]  # 12 samples of 4 a step are an epoch
    assert [line[key] for line in lines[3:]] == [pytest.approx(5e-4)] * 3
    assert lines[2][key] != pytest.approx(5e-4)
    assert len(list((run / "recipes").iterdir())) == 2


def test_a_longer_run_follows_the_longer_schedule(shelf: Path, tmp_path: Path) -> None:
    plain = ["optimizer.warmup_steps=0", "steps=8"]
    train(recipe("tokenizer", shelf, tmp_path / "run", *plain))
    plain[-1] = "steps=16"
    train(recipe("tokenizer", shelf, tmp_path / "run", *plain))
    rates = {line["step"]: line["lr_decoder"] for line in read_records(tmp_path / "run", "train")}
    for total, steps in ((8, range(1, 9)), (16, range(9, 17))):
        factor = cosine_factor(1e-3, 1e-4, 0, total)
        for step in steps:
            assert rates[step] == pytest.approx(1e-3 * factor(step - 1), rel=1e-4), step


def test_a_weight_of_the_loss_acts_from_the_resume_on(shelf: Path, tmp_path: Path) -> None:
    for overrides in (["steps=2"], ["steps=4", "loss.perceptual=2.0", "loss.codebook=0.5"]):
        train(recipe("tokenizer", shelf, tmp_path / "run", "checkpoint.save_every=2", *overrides))
    for line in read_records(tmp_path / "run", "train"):
        perceptual, codebook = (0.1, 1.0) if line["step"] <= 2 else (2.0, 0.5)
        terms = line["l2"] + codebook * line["codebook"] + 0.25 * line["commitment"]
        assert line["loss"] == pytest.approx(terms + perceptual * line["perceptual"], rel=1e-3)


def test_the_recipe_of_the_checkpoint_is_what_counts(shelf: Path, tmp_path: Path) -> None:
    """A start that ended before its first checkpoint leaves its recipe in config.yaml, and no step trained with it."""
    run = tmp_path / "run"
    train(recipe("tokenizer", shelf, run, "steps=2"))
    other = dump_config(recipe("tokenizer", shelf, run, "steps=2", "seed=1"))
    (run / "config.yaml").write_text(other)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        train(recipe("tokenizer", shelf, run, "steps=3", "seed=1"))
    train(recipe("tokenizer", shelf, run, "steps=3"))


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_what_is_refused_leaves_everything_as_it_was(shelf: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(recipe("tokenizer", shelf, run, "steps=2"))
    before = files(run)
    with pytest.raises(
        UserError, match=r"seed: 0 -> 1; batch.global_size: 4 -> 2\. .*--allow-change seed,batch"
    ):
        train(recipe("tokenizer", shelf, run, "steps=4", "seed=1", "batch.global_size=2"))
    with pytest.raises(UserError, match="steps: the recipe asks for 1 steps, and the run has done 2"):
        train(recipe("tokenizer", shelf, run, "steps=1"))
    assert files(run) == before
    train(recipe("tokenizer", shelf, run, "steps=4", "seed=1"), RunOptions(allow_change=("seed",)))
    assert [line["step"] for line in read_records(run, "train")] == [1, 2, 3, 4]
    assert "seed: 1\n" in (run / "recipes" / "0002.yaml").read_text()


def test_what_a_checkpoint_does_not_hold_begins_anew_where_that_was_asked_for(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    judged = [word for word in tiny.STAGE_2 if "discriminator" in word or word.startswith("ema")]
    train(recipe("tokenizer", shelf, run, "steps=2"))
    more = recipe("tokenizer", shelf, run, "steps=4", *judged)
    with pytest.raises(UserError, match="--allow-change"):
        train(more)
    capsys.readouterr()
    changed = ("ema", "loss", "optimizer")
    train(more, RunOptions(allow_change=changed))
    said = capsys.readouterr().out
    for name in ("discriminator", "lecam", "ema"):
        assert (f"holds no {name}, which begins anew" in said) == (name != "lecam")
    lines = read_records(run, "train")
    assert lines[2]["ema_decay"] == pytest.approx(
        2 / 11
    )  # of its second update: the first one was at this step
    assert "adversarial" in lines[2]


def test_a_run_whose_every_number_may_be_zero_is_zero(shelf: Path, tmp_path: Path) -> None:
    """All at once; what may be 0 stands in tests/common/test_numbers.py."""
    adamw = "optimizer.adamw={betas: [0.0, 0.0], weight_decay: 0.0, max_grad_norm: null}"
    zeros = ["optimizer.end_lr=0.0", "optimizer.warmup_steps=0", adamw, "loss.lecam=0.0"]
    zeros += [f"loss.{term}=0.0" for term in ("codebook", "commitment", "perceptual")]
    zeros += ["data.max_corrupt_share=0.0", "codebook_watch={min_usage: 0.0}", "guard={max_share: 0.0}"]
    judged = [*tiny.STAGE_2, "loss.discriminator_start=0", "loss.discriminator_update_start=0"]
    train(recipe("tokenizer", shelf, tmp_path / "tokenizer", "steps=2", *judged, *zeros))
    zeros = ["optimizer.end_lr=0.0", "optimizer.warmup_ratio=0.0", adamw, "data.max_skipped_share=0.0"]
    understanding.train.train(recipe("understanding", shelf, tmp_path / "understanding", "epochs=1", *zeros))
    zeros = ["optimizer.warmup_steps=0", adamw, "data.prompt_dropout=0.0", "data.max_corrupt_share=0.0"]
    generation.train.train(recipe("generation", shelf, tmp_path / "generation", "steps=2", *zeros))


def test_the_largest_rate_ends_in_one_line_or_trains(shelf: Path, tmp_path: Path) -> None:
    huge = ["optimizer.decoder_lr=1000000000.0", "optimizer.end_lr=1000000000.0", "guard.max_in_a_row=1"]
    try:
        train(recipe("tokenizer", shelf, tmp_path / "run", "steps=4", "optimizer.warmup_steps=0", *huge))
    except UserError as error:
        assert "\n" not in str(error)
