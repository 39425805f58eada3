"""The trainer as a whole, on a recipe so small that a run takes a second: what it writes, resumes and refuses."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pair_jobs
import pytest
import tiny
import torch

from common.errors import UserError
from common.models.vqrae import VQRAE
from common.training.records import read_records
from tokenizer.objective import GeneratorObjective
from tokenizer.train import train


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def stage_1(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of stage 1."""
    run = tmp_path_factory.mktemp("stage_1") / "run"
    train(tiny.tokenizer_recipe(pictures, run))
    return run


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return read_records(run, kind)


def same_weights(one: Path, other: Path) -> bool:
    return pair_jobs.digest(VQRAE.from_pretrained(one / "model")) == pair_jobs.digest(
        VQRAE.from_pretrained(other / "model")
    )


def test_a_run_leaves_the_documented_layout(stage_1: Path) -> None:
    found = {path.name for path in stage_1.iterdir()}
    assert found == {
        "config.yaml",
        "model_config.json",
        "recipes",
        "run.json",
        "versions.json",
        "metrics.jsonl",
        "pictures",
        "checkpoints",
        "model",
    }
    assert {path.name for path in (stage_1 / "pictures").iterdir()} == {
        "step_00000003.png",
        "step_00000006.png",
    }
    line = records(stage_1, "train")[-1]
    seen = {
        "step",
        "loss",
        "l2",
        "codebook",
        "commitment",
        "perceptual",
        "usage",
        "perplexity",
        "z_over_q",
        "grad_norm",
    }
    assert seen | {"lr_decoder", "images_per_second", "data_wait", "memory_gib", "skipped"} <= set(line)
    assert "mfu" not in line and not any("flops" in key for key in line)
    assert [line["images"] for line in records(stage_1, "evaluation")] == [5, 5]


def test_a_known_peak_puts_mfu_into_the_log(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.training.efficiency.peak_flops", lambda device: 1e12)
    quick = ("steps=1", "evaluation.images=null", "model.codebook_start.method=normal")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *quick))
    (line,) = records(tmp_path / "run", "train")
    assert 0 < line["mfu"] < 1 and not any("flops" in key for key in line)


def test_stage_1_leaves_encoder_and_codebook_as_they_were(
    stage_1: Path, pictures: Path, tmp_path: Path
) -> None:
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", "steps=1"))
    early, late = (VQRAE.from_pretrained(run / "model").state_dict() for run in (tmp_path / "run", stage_1))
    changed = {name for name in late if not torch.equal(early[name], late[name])}
    assert not {name for name in changed if name.startswith("encoder.")}
    assert "quantizer.codebook" not in changed and "quantizer.feature_mean" not in changed
    assert {"quantizer.transform.weight", "quantizer.project.weight", "decoder.to_pixels.weight"} <= changed


def test_stage_2_learns_everything_and_reports_its_terms(
    stage_1: Path, pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny.tokenizer_recipe(pictures, run, f"init_from={stage_1 / 'model'}", *tiny.STAGE_2))
    first, *_, last = records(run, "train")
    # D learns from step 2 on, G feels it from step 3 on.
    assert "adversarial" not in first and "d_accuracy" in first
    assert {
        "adversarial",
        "d_hinge",
        "d_lecam",
        "distillation",
        "teacher_cosine",
        "ema_decay",
        "lr_encoder",
    } <= set(last)
    start, end = (VQRAE.from_pretrained(path / "model").state_dict() for path in (stage_1, run))
    frozen = {name for name in end if torch.equal(start[name], end[name])}
    unread = {name for name in end if ".post_layernorm." in name or ".head." in name}
    assert frozen == unread | {"quantizer.codebook", "quantizer.feature_mean", "quantizer.feature_std"}


@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stage: int, stage_1: Path, pictures: Path, tmp_path: Path
) -> None:
    overrides = ["logging.log_every=1", "data.crop=random"]
    overrides += [f"init_from={stage_1 / 'model'}", *tiny.STAGE_2] if stage == 2 else []
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(tiny.tokenizer_recipe(pictures, whole, *overrides))

    original, calls = GeneratorObjective.__call__, []

    def stop_at_step_5(self: Any, *inputs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 * 4 + 2:  # in the middle of step 5; the last checkpoint is that of step 3
            raise KeyboardInterrupt
        return original(self, *inputs)

    config = tiny.tokenizer_recipe(pictures, resumed, *overrides)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GeneratorObjective, "__call__", stop_at_step_5)
        train(config)
    train(config)
    losses = [[line["loss"] for line in records(run, "train")] for run in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert same_weights(whole, resumed)


def test_accumulation_does_not_change_the_training(pictures: Path, tmp_path: Path) -> None:
    for micro in (2, 4):
        batch = (f"batch.micro_size={micro}", "model.codebook_start.method=normal")
        train(tiny.tokenizer_recipe(pictures, tmp_path / str(micro), *batch))
    one, other = (VQRAE.from_pretrained(tmp_path / micro / "model").state_dict() for micro in ("2", "4"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=1e-3)


def test_a_non_finite_loss_stops_the_run_and_keeps_the_checkpoint(
    pictures: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    import tokenizer.objective as objective

    original, calls = objective.losses.reconstruction_l2, []

    def diverge(reconstruction: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return original(reconstruction, pixels) * (float("nan") if len(calls) > 2 * 4 else 1.0)

    monkeypatch.setattr(objective.losses, "reconstruction_l2", diverge)
    with pytest.raises(UserError, match=r"2 bad steps in a row; .* l2, loss not finite on rank 0"):
        train(tiny.tokenizer_recipe(pictures, tmp_path / "run", "guard.max_in_a_row=2"))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == "step_00000003"
    assert not (tmp_path / "run" / "model").exists()


def test_a_full_disk_while_saving_keeps_the_checkpoint(pictures: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: both are an OSError in the middle of a write."""
    run = tmp_path / "run"
    train(tiny.tokenizer_recipe(pictures, run, "steps=3"))
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        with pytest.raises(UserError, match=r"the last whole checkpoint is .*step_00000003"):
            train(tiny.tokenizer_recipe(pictures, run, "checkpoint.background=false"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert {
        path.name: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()
    } == before
    train(tiny.tokenizer_recipe(pictures, run))  # and with room again, it goes on
    assert (run / "checkpoints" / "latest").read_text().strip() == "step_00000006"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["init_from=gone"], "init_from: gone: no such folder"),
        (["model.encoder.source=gone/a/b"], "no such folder"),
        (["batch.global_size=3"], "batch.global_size: 3 is no multiple"),
        (["data.sources.0.path=gone"], "gone"),
        (["model.codebook_size=100000"], "tokens are too few for 100000 codes"),
        (["loss.perceptual_model.preset=convnext_s"], "perceptual.*convnext_weights"),
    ],
)
def test_bad_input_is_one_line(overrides: list[str], complaint: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.codebook_size=64", "model.codebook_size: the recipe states 64, the checkpoint has 32"),
        (
            "model.encoder.architecture.num_hidden_layers=2",
            "num_hidden_layers: the recipe states 2, the checkpoint has 1",
        ),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    override: str, complaint: str, stage_1: Path, pictures: Path, tmp_path: Path
) -> None:
    config = tiny.tokenizer_recipe(pictures, tmp_path / "run", f"init_from={stage_1 / 'model'}", override)
    with pytest.raises(UserError, match=complaint):
        train(config)


def test_a_run_is_not_overwritten(stage_1: Path, pictures: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        train(tiny.tokenizer_recipe(pictures, stage_1, "resume=false"))


def test_the_continuous_autoencoder_trains_without_codes(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny.tokenizer_recipe(pictures, run, "model.quantize=false"))
    assert "codebook" not in records(run, "train")[-1] and "psnr" in records(run, "evaluation")[-1]
