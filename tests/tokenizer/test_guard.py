"""The guard in the trainer: bad steps of both engines, rates that do not lag, going back; and the codebook's watch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pair_jobs
import pytest
import tiny
import torch
from torch import Tensor

from common.models.vqrae import VQRAE
from common.training.guard import Guard
from common.training.optim import cosine_factor
from tokenizer import losses
from tokenizer.discriminator import Discriminator
from tokenizer.train import train

QUIET = (
    "logging.log_every=1",
    "logging.picture_every=100",
    "logging.evaluate_every=100",
    "checkpoint.save_every=2",
)
MICRO_STEPS = 2  # of a step of the tiny recipe


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def poison_calls(patch: pytest.MonkeyPatch, *bad: int) -> None:
    """The reconstruction loss of these calls is NaN."""
    original, calls = losses.reconstruction_l2, []

    def sometimes(reconstruction: Tensor, pixels: Tensor) -> Tensor:
        calls.append(1)
        return original(reconstruction, pixels) * (float("nan") if len(calls) in bad else 1.0)

    patch.setattr(losses, "reconstruction_l2", sometimes)


def weights(run: Path) -> dict[str, Tensor]:
    return VQRAE.from_pretrained(run / "model").state_dict()


@pytest.mark.parametrize("stage", [0, 1])
def test_a_bad_step_moves_nothing_and_the_rate_goes_on(
    stage: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    overrides = (*QUIET, f"engine.zero_stage={stage}")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "good", *overrides))
    poison_calls(monkeypatch, 2 * MICRO_STEPS + 1)  # step 3
    train(tiny.tokenizer_recipe(pictures, tmp_path / "bad", *overrides))
    good, bad = records(tmp_path / "good"), records(tmp_path / "bad")
    assert [line["lr_decoder"] for line in bad] == [line["lr_decoder"] for line in good]
    assert len(bad) == 6 and bad[-1]["lr_decoder"] > 0
    assert [line["skipped_steps"] for line in bad] == [0, 0, 1, 1, 1, 1]
    assert bad[-1]["nonfinite_losses"] == 1 and all(line["l2"] > 0 for line in bad)
    said = capsys.readouterr().out
    assert "step 3: dropped by generator; loss l2, loss not finite on rank 0" in said
    assert "samples on rank 0: 0" in said  # pictures are named 000.png, 001.png, ...
    trained = weights(tmp_path / "bad")
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
    assert any(not torch.equal(trained[name], tensor) for name, tensor in weights(tmp_path / "good").items())


def test_a_bad_discriminator_stops_neither_the_generator_nor_its_own_means(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original, calls = Discriminator.forward, []

    def sometimes(self: Any, pixels: Tensor) -> Tensor:
        logits = original(self, pixels)
        if len(pixels) == 2 * 2:  # real and fake pictures of a micro-step together: it learns
            calls.append(1)
        return logits * (float("nan") if len(calls) == MICRO_STEPS + 1 and len(pixels) == 2 * 2 else 1.0)

    monkeypatch.setattr(Discriminator, "forward", sometimes)
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *QUIET, *tiny.STAGE_2))
    last = records(tmp_path / "run")[-1]
    assert (last["skipped_steps"], last["skipped_steps_discriminator"]) == (0, 1)
    assert last["d_lecam"] >= 0 and last["d_hinge"] > 0 and last["adversarial"] == last["adversarial"]
    assert "step 3: dropped by discriminator; loss d_" in capsys.readouterr().out


def test_bad_data_is_left_out_once(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Steps 5 and 6 are bad; the run goes back to step 4 and takes the samples that come after those of step 6."""
    seen: list[tuple[int, list[str]]] = []
    see = Guard.see

    def remember(self: Guard, keys: Any) -> None:
        seen.append((self.step, list(keys)))
        see(self, keys)

    monkeypatch.setattr(Guard, "see", remember)
    train(tiny.tokenizer_recipe(pictures, tmp_path / "long", *QUIET, "steps=8"))
    order = [keys for _, keys in seen]
    seen.clear()
    poison_calls(monkeypatch, *range(4 * MICRO_STEPS + 1, 6 * MICRO_STEPS + 1))
    guard = ("guard.max_in_a_row=2", "guard.rollback=true")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *QUIET, *guard))
    assert [step for step, _ in seen] == [
        step for step in (1, 2, 3, 4, 5, 6, 5, 6) for _ in range(MICRO_STEPS)
    ]
    assert [keys for _, keys in seen] == order
    assert "2 bad steps in a row" in capsys.readouterr().out
    last = records(tmp_path / "run")[-1]
    assert (last["step"], last["skipped_steps"], last["rollbacks"]) == (6, 2, 1)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


@pytest.mark.parametrize("stage", [0, 1])
def test_a_loss_spike_is_not_learned_from(
    stage: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original, calls = losses.reconstruction_l2, []

    def spiked(reconstruction: Tensor, pixels: Tensor) -> Tensor:
        calls.append(1)
        return original(reconstruction, pixels) * (1e6 if len(calls) == 4 * MICRO_STEPS + 1 else 1.0)

    monkeypatch.setattr(losses, "reconstruction_l2", spiked)
    option = ("guard.spikes={deviations: 1000.0, window: 4}", f"engine.zero_stage={stage}")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *QUIET, *option))
    lines = records(tmp_path / "run")
    assert [line["spikes"] for line in lines] == [0, 0, 0, 0, 1, 1]
    assert lines[-1]["skipped_steps"] == 1 and lines[-1]["nonfinite_losses"] == 0
    assert "step 5: dropped by generator; the loss is a spike" in capsys.readouterr().out


REVIVING = (
    *QUIET,
    "steps=4",
    "checkpoint.save_every=1",
    "model.codebook_start.method=normal",
    "codebook_watch={min_usage: 1.0, lines: 2, revive: true}",
)


def test_dead_codes_come_back_while_training(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    train(tiny.tokenizer_recipe(pictures, tmp_path / "whole", *REVIVING))
    lines = records(tmp_path / "whole")
    assert ["revived_codes" in line for line in lines] == [False, True, False, True]
    assert lines[1]["revived_codes"] > 0 and lines[2]["usage"] > lines[1]["usage"]
    assert "were too low for 2 lines" in capsys.readouterr().out
    with pair_jobs.stopped(2):  # whose line has revived some
        train(tiny.tokenizer_recipe(pictures, tmp_path / "resumed", *REVIVING))
    train(tiny.tokenizer_recipe(pictures, tmp_path / "resumed", *REVIVING))
    resumed, whole = weights(tmp_path / "resumed"), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_two_ranks_revive_the_same_codes(pictures: Path, tmp_path: Path, pair: Any) -> None:
    run = {"pictures": str(pictures), "output": str(tmp_path / "run"), "overrides": list(REVIVING)}
    first, second = pair.run("train_tokenizer", **run)
    assert first == second
    assert records(tmp_path / "run")[1]["revived_codes"] > 0


def test_a_resumed_run_has_the_new_recipes_rates(pictures: Path, tmp_path: Path) -> None:
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *QUIET, "steps=2"))
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *QUIET, "steps=4", "optimizer.decoder_lr=5e-4"))
    rates = {line["step"]: line["lr_decoder"] for line in records(tmp_path / "run")}
    expected = [5e-4 * cosine_factor(5e-4, 1e-4, 2, 4)(done) for done in (2, 3)]
    assert [rates[3], rates[4]] == pytest.approx(expected)
