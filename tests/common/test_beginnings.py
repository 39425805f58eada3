"""What a run will touch is tried before anything slow."""

from __future__ import annotations

import builtins
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator

from common.errors import UserError
from common.training import beginnings
from common.training.checkpoint import CheckpointConfig
from common.training.plan import checkpoint_bytes
from common.training.reporter import LoggingConfig
from generation import beginnings as generation
from tokenizer import beginnings as tokenizer
from understanding import beginnings as understanding

GIB = 2**30


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the three trainers start from."""
    folder = tmp_path_factory.mktemp("beginnings")
    tiny.write_understanding_shelf(folder)
    return tiny_generator.write_shelf(folder)


def begin(job: str, shelf: Path, run: Path, *overrides: str) -> list[str]:
    run.mkdir(exist_ok=True)
    if job == "tokenizer":
        return tokenizer.begin(run, tiny.tokenizer_recipe(shelf / "images", run, *overrides))
    if job == "generation":
        return generation.begin(run, tiny_generator.recipe(shelf, run, *overrides))
    config = tiny.understanding_recipe(shelf, run, *overrides)
    understanding.begin(run, config)
    return understanding.warnings(config, 6)


@pytest.mark.parametrize("job", ["tokenizer", "understanding", "generation"])
def test_a_run_that_can_begin_leaves_nothing(job: str, shelf: Path, tmp_path: Path) -> None:
    lines = begin(job, shelf, tmp_path / "run")
    assert list((tmp_path / "run").rglob("*.png")) == []
    assert not (tmp_path / "run" / "checkpoints").exists()  # else it would be a run already
    assert [line for line in lines if "warm-up" in line] == []


@pytest.mark.parametrize(
    ("job", "override", "named"),
    [
        ("tokenizer", "init_from={shelf}/gone", "init_from: "),
        ("tokenizer", "init_from={shelf}/images", "init_from: .*images/config.json: no such file"),
        ("tokenizer", "model.encoder.source=./gone", "model.encoder.source: ./gone: no such folder"),
        ("tokenizer", "data.sources.0.path={shelf}/gone", "data.sources.0: .*gone: no such folder"),
        ("tokenizer", "data.sources.0.path={shelf}/captions.json", "captions.json: not a folder"),
        ("tokenizer", "data.sources.0.captions=gone.jsonl", "gone.jsonl: no such file"),
        ("tokenizer", "data.sources=[{kind: shards, path: 'x-{000..002}.tar'}]", "x-000.tar: no such file"),
        ("tokenizer", "data.sources=[{kind: shards, path: 'x-*.tar'}]", "no shards found"),
        ("tokenizer", "evaluation.images={shelf}/gone", "evaluation.images: .*gone: no such folder"),
        ("tokenizer", "evaluation.images={shelf}/vqrae", "evaluation.images: .*no images in this folder"),
        ("tokenizer", "loss.perceptual_model.convnext_weights=gone.pth", "gone.pth: no such file; loss.perc"),
        ("understanding", "model.tower.source=../gone", "model.tower.source: "),
        ("understanding", "model.language_model.source={shelf}/images", "model.language_model.source: "),
        ("understanding", "data.sources.0.annotations=gone.json", "data.sources.0: gone.json: annotations"),
        ("understanding", "data.sources.0.images=gone", "data.sources.0: gone: images: no such folder"),
        (
            "understanding",
            "data.sources=[{kind: shards, annotations: 'x-{000..002}.tar'}]",
            "data.sources.0: x-000.tar",
        ),
        (
            "understanding",
            "data.sources=[{kind: parquet, annotations: 'gone/*.parquet'}]",
            "data.sources.0: gone/.*no parquet files found",
        ),
        (
            "understanding",
            "evaluation.source={annotations: gone.json, images: .}",
            "evaluation.source: gone.json: annotations: no such file",
        ),
        ("generation", "model.tokenizer.source={shelf}/gone", "model.tokenizer.source: "),
        ("generation", "data.codes={shelf}/gone", "data.codes: .*gone/codes.json: no extracted codes there"),
        ("generation", "evaluation.source.path={shelf}/gone", "evaluation.source: .*gone: no such folder"),
    ],
)
def test_what_is_not_there_is_found(job: str, override: str, named: str, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named) as error:
        begin(job, shelf, tmp_path / "run", override.replace("{shelf}", str(shelf)))
    assert "\n" not in str(error.value)


def damaged_held_out(folder: Path) -> Path:
    """Forty pictures, the last of them torn behind its header."""
    held_out = tiny.write_pictures(folder, count=40)
    sound = (held_out / "039.png").read_bytes()
    (held_out / "039.png").write_bytes(sound[: len(sound) // 2])
    return held_out


@pytest.mark.parametrize("job", ["tokenizer", "generation"])
def test_held_out_pictures_are_looked_at(job: str, shelf: Path, tmp_path: Path) -> None:
    """All that will be measured: refused beyond the recipe's share, else named."""
    held_out = damaged_held_out(tmp_path / "held_out")
    field = "evaluation.images" if job == "tokenizer" else "evaluation.source.path"
    overrides = [f"{field}={held_out}", "evaluation.limit=40"]
    if job == "generation":
        overrides.append("evaluation.source.unconditional=true")
    with pytest.raises(UserError, match=r"evaluation\.\w+: 1 of 40 images .*max_corrupt_share.*039\.png"):
        begin(job, shelf, tmp_path / "run", *overrides)
    lines = begin(job, shelf, tmp_path / "run", *overrides, "data.max_corrupt_share=0.03")
    assert any(
        "1 of 40 images cannot be read and are left out: " in line and "039.png" in line for line in lines
    )
    begin(job, shelf, tmp_path / "run", *overrides, "evaluation.limit=39")


@pytest.mark.parametrize("place", ["checkpoints", "pictures"])
def test_a_folder_that_cannot_be_written_is_found(place: str, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / place).write_text("in the way")
    with pytest.raises(UserError, match=rf"{place}/.trial.png: cannot be written"):
        begin("tokenizer", shelf, tmp_path / "run")


@pytest.mark.parametrize("job", ["tokenizer", "understanding", "generation"])
def test_a_disk_without_room_is_found(
    job: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(beginnings.shutil, "disk_usage", lambda path: usage(free=50_000))
    with pytest.raises(UserError, match=r"output: the disk has 0.0 MiB left, and the run needs about"):
        begin(job, shelf, tmp_path / "run")


def test_room_is_for_the_checkpoints_that_will_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [0]
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(beginnings.shutil, "disk_usage", lambda path: usage(free=free[0]))
    config = CheckpointConfig(save_every=10, keep=2)

    def fits(room: float, steps: int = 1000) -> bool:
        free[0] = int(room)
        try:
            beginnings.try_room(tmp_path, GIB, GIB / 2, config, steps)
        except UserError as error:
            assert "3 checkpoints of 1.0 GiB" in str(error) or steps < 30
            return False
        return True

    assert fits(3.5 * GIB) and not fits(3.4 * GIB)
    assert fits(1.5 * GIB, steps=10) and not fits(1.4 * GIB, steps=10)  # one checkpoint in all
    (tmp_path / "checkpoints").mkdir()
    with (tmp_path / "checkpoints" / "there").open("wb") as file:
        file.truncate(2 * GIB)  # a hole; a resumed run has these already
    assert fits(1.5 * GIB) and not fits(1.4 * GIB)


def test_the_size_of_a_checkpoint() -> None:
    assert checkpoint_bytes(10) == 120 and checkpoint_bytes(10, 5) == 140
    assert checkpoint_bytes(10, 5, averaged=True) == 180


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_writer_that_is_not_installed_is_found(
    name: Any, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(wanted: str, *arguments: Any, **options: Any) -> Any:
        if wanted == module:
            raise ImportError(f"No module named {wanted}")
        return real(wanted, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    logging = LoggingConfig(log_every=1, picture_every=1, evaluate_every=1, writers=(name,))
    with pytest.raises(UserError, match=rf"logging.writers: {name} "):
        beginnings.try_run(tmp_path, logging)


@pytest.mark.parametrize(
    ("job", "overrides", "said"),
    [
        ("tokenizer", ["steps=2"], "optimizer.warmup_steps: 2 steps of warm-up in a run of 2"),
        ("tokenizer", [*tiny.STAGE_2, "steps=2"], "loss.discriminator_start: step 2 does not come"),
        ("tokenizer", ["loss.reconstruction=0.0", "loss.perceptual=0.0"], "nothing teaches the decoder"),
        ("tokenizer", ["optimizer.end_lr=1.0"], "optimizer.end_lr: over a peak rate"),
        ("tokenizer", ["evaluation.images=null"], "evaluation.images: null"),
        ("tokenizer", ["model.codebook_dim=8"], "model.codebook_dim: 8 is less"),
        ("understanding", ["optimizer.warmup_ratio=1.0"], "optimizer.warmup_ratio: 6 steps of warm-up"),
        ("understanding", ["optimizer.end_lr=1.0"], "optimizer.end_lr: over a peak rate"),
        ("understanding", [], "evaluation.source: null"),
        ("generation", ["optimizer.warmup_steps=7"], "optimizer.warmup_steps: 7 steps of warm-up"),
        ("generation", ["evaluation.source=null"], "evaluation.source: null"),
    ],
)
def test_what_is_hardly_meant_is_said(
    job: str, overrides: list[str], said: str, shelf: Path, tmp_path: Path
) -> None:
    lines = begin(job, shelf, tmp_path / "run", *overrides)
    assert [line.startswith("warning: ") for line in lines if said in line] == [True]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss.distillation=1.0"], "loss.distillation: expected 0, since model.freeze_encoder is true"),
        (
            ["loss.quantizer_distillation=1.0", "model.quantizer_layers=[0, 1]"],
            "loss.quantizer_distillation: expected 0, since model.freeze_encoder is true",
        ),
        (
            [*tiny.STAGE_2, "loss.quantizer_distillation=1.0"],
            "loss.quantizer_distillation: expected 0, since model.quantizer_layers is null",
        ),
        (["model.quantizer_layers=[0, 2]"], "model.quantizer_layers: expected numbers of hidden states"),
        (["model.quantizer_layers=[]"], "model.quantizer_layers: expected numbers of hidden states"),
        (["model.quantizer_layers=[1, 1]"], "model.quantizer_layers: expected numbers of hidden states"),
        (["model.quantizer_layers=[-1]"], "model.quantizer_layers"),
        (
            [f"loss.{term}=0.0" for term in ("reconstruction", "codebook", "commitment", "perceptual")],
            "loss.reconstruction: expected a weight other than 0",
        ),
        (["loss.perceptual_model.preset=none"], "loss.perceptual: expected 0, since perceptual_model.preset"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        tiny.tokenizer_recipe(tmp_path, tmp_path / "run", *overrides)
