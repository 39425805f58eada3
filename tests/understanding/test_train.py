"""The trainer as a whole, on recipes so small that a run takes a second: both stages, resuming, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from common.errors import UserError
from common.models.vqrae import VQRAE
from common.training.command import RunOptions
from common.training.records import read_records
from common.training.state import TrainingState
from understanding import assemble
from understanding.config import UnderstandingConfig
from understanding.train import train


@pytest.fixture(scope="module")
def pretrained(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    train(tiny.understanding_recipe(shelf, run))
    return run


def fine_tuning(shelf: Path, pretrained: Path, output: Path, *overrides: str) -> UnderstandingConfig:
    start = f"init_from={pretrained / 'model'}"
    return tiny.understanding_recipe(shelf, output, start, *tiny.FINE_TUNING, *overrides)


def weights(run: Path, folder: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / folder / "model.safetensors")


def changed(one: Path, other: Path) -> set[str]:
    """Parts of the model that differ between two runs."""
    before, after = weights(one), weights(other)
    assert set(before) == set(after)
    return {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}


def records(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    return read_records(run, kind)


def test_pretraining_leaves_the_documented_layout(pretrained: Path) -> None:
    found = {path.name for path in pretrained.iterdir()}
    assert found == {
        "config.yaml",
        "recipes",
        "run.json",
        "versions.json",
        "metrics.jsonl",
        "pictures",
        "checkpoints",
        "model",
    }
    line = records(pretrained)[-1]
    seen = {"step", "epoch", "loss", "token_accuracy", "grad_norm", "lr", "samples_per_second", "skipped"}
    assert seen | {"tokens_per_second", "padding", "data_wait", "memory_gib"} <= set(line)
    assert line["step"] == 2 * 3  # 12 samples in batches of 4, twice
    assert 0 < line["padding"] < 1


def test_each_stage_trains_what_it_says(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    train(tiny.understanding_recipe(shelf, tmp_path / "early", "epochs=1"))
    assert changed(tmp_path / "early", pretrained) == {"multi_modal_projector"}
    train(fine_tuning(shelf, pretrained, tmp_path / "tuned"))
    assert changed(pretrained, tmp_path / "tuned") == {"multi_modal_projector", "language_model"}
    tower = VQRAE.from_pretrained(shelf / "vqrae").encoder.model.state_dict()
    exported = weights(tmp_path / "tuned")
    for name, tensor in tower.items():
        if not name.startswith("head."):  # which nothing reads
            assert torch.equal(tensor, exported[f"vision_tower.vision_model.{name}"]), name


def test_the_loss_falls_and_held_out_answers_are_measured(
    shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    held_out = f"{{annotations: {shelf / 'conversations.json'}, images: {shelf / 'images'}}}"
    run = tmp_path / "run"
    quiet = ["checkpoint.save_every=100", "logging.picture_every=100", "logging.evaluate_every=100"]
    long = ["epochs=20", "optimizer.lr=2e-2", *quiet]
    train(fine_tuning(shelf, pretrained, run, f"evaluation.source={held_out}", *long))
    lines = records(run)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    measured = records(run, "evaluation")[-1]
    assert measured["samples"] == 12 and 0 <= measured["exact"] <= measured["token_accuracy"] <= 1
    assert (run / "pictures" / "step_00000060.png").is_file()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_other_families_train_too(kind: str, shelf: Path, tmp_path: Path) -> None:
    train(tiny.understanding_recipe(shelf, tmp_path / "one", "epochs=1", kind=kind))
    tuned = [f"init_from={tmp_path / 'one' / 'model'}", *tiny.FINE_TUNING, "model.template=qwen", "epochs=1"]
    train(tiny.understanding_recipe(shelf, tmp_path / "two", *tuned, kind=kind))
    assert changed(tmp_path / "one", tmp_path / "two") == {"multi_modal_projector", "language_model"}


MUON = ["optimizer.muon={lr: 0.01}", "optimizer.adamw.max_grad_norm=null"]


@pytest.mark.parametrize("stage", ["pretrain", "sft", "lora", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stage: str, shelf: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(name: str) -> UnderstandingConfig:
        often = "logging.log_every=1"
        if stage == "pretrain":
            return tiny.understanding_recipe(shelf, tmp_path / name, often)
        special = {
            "lora": ["model.lora={rank: 2, alpha: 4, dropout: 0.1}"],
            "muon": [*MUON, "engine.zero_stage=2"],
        }
        return fine_tuning(shelf, pretrained, tmp_path / name, often, *special.get(stage, []))

    train(recipe("whole"))
    save = TrainingState.save

    def save_and_stop(self: TrainingState, checkpoints: Any) -> None:
        save(self, checkpoints)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingState, "save", save_and_stop)
        train(recipe("resumed"))
    assert records(tmp_path / "resumed")[-1]["step"] < 3
    train(recipe("resumed"))
    whole, resumed = (
        {line["step"]: line["loss"] for line in records(tmp_path / name)} for name in ("whole", "resumed")
    )
    del whole[2]  # saved, and interrupted before its line
    assert whole == resumed and len(resumed) == 5
    assert not changed(tmp_path / "whole", tmp_path / "resumed")


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
import torch
from common.config import load_config
from understanding.config import UnderstandingConfig
from understanding.train import train

save, calls = torch.save, []

def save_half(value, file, *rest, **options):
    if Path(str(file)).parent.parent.name.startswith(".step_00000004"):
        save(value, file, *rest, **options)
        with open(file, "r+b") as torn:  # in the middle of the engine's largest file
            torn.truncate(os.path.getsize(file) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    return save(value, file, *rest, **options)

torch.save = save_half
train(load_config(UnderstandingConfig, sys.argv[1]))
"""


def test_a_run_that_is_killed_while_saving_ends_like_an_uninterrupted_one(
    shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    """kill -9 halfway through the second checkpoint, in both stages."""
    from common.config import dump_config

    recipes = {
        "pretrain": lambda output: tiny.understanding_recipe(shelf, output),
        "sft": lambda output: fine_tuning(shelf, pretrained, output),
    }
    path = [str(Path(tiny.__file__).parents[1]), str(Path(tiny.__file__).parent)]
    code = KILLED_WHILE_SAVING.format(path=path)
    # Of this process' own world.
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launched}
    processes = {}
    for stage, recipe in recipes.items():
        file = tmp_path / f"{stage}.yaml"
        file.write_text(dump_config(recipe(tmp_path / stage)))
        command = [sys.executable, "-c", code, str(file)]
        processes[stage] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    for stage, process in processes.items():
        _, complaints = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, complaints.decode()[-2000:]
        checkpoints = tmp_path / stage / "checkpoints"
        assert (checkpoints / "latest").read_text().strip() == "step_00000002"
        assert (checkpoints / ".step_00000004.partial").is_dir()
        train(recipes[stage](tmp_path / stage))
        train(recipes[stage](tmp_path / f"{stage}_whole"))
        assert not changed(tmp_path / stage, tmp_path / f"{stage}_whole")


def test_the_attention_of_the_recipe_reaches_both_stages(
    shelf: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    start = assemble.start_language_side

    def look(side: Any, *rest: Any) -> Any:
        seen.append(side.llava.model.language_model.config._attn_implementation)
        return start(side, *rest)

    monkeypatch.setattr(assemble, "start_language_side", look)
    eager = ["model.attn_implementation=eager", "epochs=1"]
    train(tiny.understanding_recipe(shelf, tmp_path / "one", *eager))
    train(fine_tuning(shelf, pretrained, tmp_path / "two", *eager))
    assert seen == ["eager", "eager"]


def test_a_checkpoint_holds_only_what_learns(shelf: Path, pretrained: Path) -> None:
    """The tower and, in pretraining, the language model are not saved again."""
    latest = pretrained / "checkpoints" / "step_00000006"
    saved = torch.load(
        latest / "language_side" / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False
    )
    assert {name.split(".")[2] for name in saved["module"]} == {"multi_modal_projector"}
    state = torch.load(latest / "state_rank00000.pt", map_location="cpu", weights_only=True)
    assert len(state["tower"]) == 64


def test_another_tower_is_not_resumed_with(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    from common.models.encoder_loading import build_encoder

    torch.manual_seed(1)
    build_encoder(tiny.SIGLIP).save_pretrained(tmp_path / "other")
    other = f"model.tower.source={tmp_path / 'other'}"
    with pytest.raises(UserError, match=r"model\.tower: was trained on the tower"):
        allowed = RunOptions(allow_change=("model.tower.source",))
        train(tiny.understanding_recipe(shelf, pretrained, other), allowed)
    with pytest.raises(UserError, match=r"init_from: was trained on the tower"):
        train(fine_tuning(shelf, pretrained, tmp_path / "run", other))


def test_accumulation_does_not_change_the_training(shelf: Path, tmp_path: Path) -> None:
    """Micro-batches hold different numbers of learned tokens; the step's loss is their mean all the same."""
    for micro in (1, 2, 4):
        train(tiny.understanding_recipe(shelf, tmp_path / str(micro), f"batch.micro_size={micro}"))
    one, two, four = (weights(tmp_path / str(micro)) for micro in (1, 2, 4))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(one[name], four[name], atol=2e-5, rtol=1e-4)


def test_packing_trains_like_padding(shelf: Path, tmp_path: Path) -> None:
    """One pack a batch holds what one padded batch holds, if the packs are large enough for all samples."""
    all_at_once = ["batch.global_size=16", "batch.micro_size=16", "epochs=3"]
    train(tiny.understanding_recipe(shelf, tmp_path / "padded", *all_at_once))
    train(tiny.understanding_recipe(shelf, tmp_path / "packed", *all_at_once, "data.packing=true"))
    padded, packed = weights(tmp_path / "padded"), weights(tmp_path / "packed")
    for name in padded:
        torch.testing.assert_close(padded[name], packed[name], atol=2e-5, rtol=1e-4)
    assert records(tmp_path / "packed")[-1]["padding"] == 0 < records(tmp_path / "padded")[-1]["padding"]


def test_damaged_images_are_left_out_counted_and_listed(shelf: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    tiny.write_conversations(damaged, text_only=0)
    (damaged / "images" / "003.png").write_bytes(b"no picture")
    (damaged / "images" / "005.png").unlink()
    data = [
        f"data.sources.0.annotations={damaged / 'captions.json'}",
        f"data.sources.0.images={damaged / 'images'}",
    ]
    train(tiny.understanding_recipe(shelf, tmp_path / "run", *data))
    assert records(tmp_path / "run")[-1]["skipped"] == 2 * 2  # both, in both epochs
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert (
        len(listed) == 2 and "003.png" in listed[0] + listed[1] and "missing image" in listed[0] + listed[1]
    )


def test_a_non_finite_loss_stops_the_run_and_keeps_the_checkpoint(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from understanding.objective import LanguageSide

    forward, calls = LanguageSide.forward, []

    def diverge(self: Any, *inputs: Any) -> Any:
        calls.append(1)
        loss, predicted = forward(self, *inputs)
        return loss * (float("nan") if len(calls) > 2 * 2 else 1.0), predicted

    monkeypatch.setattr(LanguageSide, "forward", diverge)
    quiet = ("logging.picture_every=100", "guard.max_in_a_row=2")
    with pytest.raises(UserError, match=r"2 bad steps in a row; .*loss loss not finite on rank 0"):
        train(tiny.understanding_recipe(shelf, tmp_path / "run", *quiet))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == "step_00000002"
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["init_from=gone"], "init_from: gone: no such folder"),
        (["model.tower.source=gone/a/b"], "no such folder"),
        (["model.tower.architecture.hidden_size=32"], "hidden_size: the recipe states 32"),
        (["model.language_model.source=gone/a/b"], "model.language_model.source: gone/a/b: no such folder"),
        (["model.language_model.architecture.num_hidden_layers=3"], "the recipe states 3"),
        (["model.template=qwen"], "template"),
        (["batch.global_size=3"], "batch.global_size: 3 is no multiple"),
        (["data.sources.0.annotations=gone.json"], "gone.json"),
        (["data.sources.0.samples=11"], "data.sources.samples: 11 are stated, found 12"),
        (["data.max_length=17"], "nothing left to learn|none of 12"),
    ],
)
def test_bad_input_is_one_line(overrides: list[str], complaint: str, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        train(tiny.understanding_recipe(shelf, tmp_path / "run", *overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["optimizer.muon={lr: 0.01}"], "adamw.max_grad_norm: expected null beside muon"),
        ([*MUON, "engine.zero_stage=3"], "optimizer.muon: expected zero_stage 0, 1 or 2"),
        ([*MUON, "engine.offload=cpu"], "no offload"),
        ([*MUON, "optimizer.end_lr=1e-5"], "optimizer.end_lr: expected 0 beside muon"),
        ([*MUON, "optimizer.projector_lr=1e-5"], "projector_lr: expected null beside muon"),
    ],
)
def test_what_muon_does_not_go_with(
    overrides: list[str], complaint: str, shelf: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        tiny.understanding_recipe(shelf, tmp_path / "run", *overrides)


def test_an_image_needs_room(shelf: Path, tmp_path: Path) -> None:
    from common.config import ConfigError

    with pytest.raises(ConfigError, match="16 leaves no room for text beside the 16 tokens of one image"):
        tiny.understanding_recipe(shelf, tmp_path / "run", "data.max_length=16")


def test_the_order_is_that_of_the_recipe_alone(shelf: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(tiny.understanding_recipe(shelf, tmp_path / str(seed), f"seed={seed}", "logging.log_every=1"))
    first, second = ([line["loss"] for line in records(tmp_path / str(seed))] for seed in (0, 1))
    assert not np.allclose(first, second)
