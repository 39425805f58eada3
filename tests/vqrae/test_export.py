"""`vqrae export`: what a run's end leaves, of any of its checkpoints, while the run goes on, and on another machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
from safetensors.torch import load_file

from common.errors import UserError
from common.models.vqrae_loading import load_vqrae
from common.training.checkpoint import Checkpoints
from generation import train as generation
from tokenizer import train as tokenizer
from understanding import train as understanding
from vqrae import export as command
from vqrae.cli import dispatch

pytestmark = pytest.mark.slow
QUIET = ("logging.picture_every=1000", "logging.evaluate_every=3")
STAGE_2 = (*tiny.STAGE_2, "steps=7", "evaluation.limit=2", *QUIET)
GENERATOR = ("samples.prompts=[]", "evaluation.source=null", "steps=4", "checkpoint.save_every=2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def stage_2(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a discriminator, a moving average, and a rate that is too high: its first evaluation is its
    best."""
    folder = tmp_path_factory.mktemp("stage_2")
    tokenizer.train(tiny.tokenizer_recipe(pictures, folder / "start", "steps=1", "evaluation.images=null"))
    start = f"init_from={folder / 'start' / 'model'}"
    best = ("checkpoint.best=perplexity", "checkpoint.keep=1", "optimizer.decoder_lr=0.1")
    tokenizer.train(tiny.tokenizer_recipe(pictures, folder / "run", start, *STAGE_2, *best))
    return folder / "run"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_understanding_shelf(tmp_path_factory.mktemp("shelf") / "shelf")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("captions"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def export(*arguments: object) -> None:
    dispatch(["export", *map(str, arguments)])


def moved(run: Path, to: Path) -> Path:
    """A copy without its model, as if it went on."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("model", "exports", "adapter"))
    return to


def test_a_tokenizer_is_what_its_run_left_and_needs_nothing_else(stage_2: Path, tmp_path: Path) -> None:
    """On a machine that has neither the stage before nor the encoder: the average by default, the weights if asked."""
    run = moved(stage_2, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("start/model", "gone/model"))
    export(run)
    assert contents(run / "exports" / "step_00000007") == contents(stage_2 / "model")
    export(run, "--raw")
    averaged, raw = (
        load_file(run / "exports" / f"step_00000007{kind}" / "model.safetensors") for kind in ("", "_raw")
    )
    assert {name for name in raw if not raw[name].equal(averaged[name])} >= {"decoder.to_pixels.weight"}


def test_the_best_is_kept_and_exported(stage_2: Path, tmp_path: Path) -> None:
    from common.training.best import read_best

    best = read_best(stage_2 / "checkpoints")
    assert best is not None and (best.checkpoint, best.score) == ("step_00000003", "perplexity")
    there = {path.name for path in (stage_2 / "checkpoints").glob("step_*")}
    assert there == {"step_00000003", "step_00000007"}  # of three, and one is kept
    export(stage_2, "--best", "--out", tmp_path / "best")
    export(stage_2, "--step", 3, "--ema", "--out", tmp_path / "step")
    assert contents(tmp_path / "best") == contents(tmp_path / "step") != contents(stage_2 / "model")


@pytest.mark.parametrize(
    "overrides",
    [
        ("engine.precision=bf16", "engine.zero_stage=3", *tiny.FINE_TUNING[:3]),
        (*tiny.FINE_TUNING, "engine.zero_stage=2", "model.lora={rank: 2, alpha: 8, dropout: 0.5}"),
        (),
    ],
    ids=["bf16 zero-3", "adapters", "projector alone"],
)
def test_understanding_is_what_its_run_left(overrides: tuple[str, ...], shelf: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    understanding.train(tiny.understanding_recipe(shelf, run, *overrides, *QUIET, "epochs=1"))
    export(run, "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(run / "model")
    assert (
        (tmp_path / "out_adapter").is_dir()
        == (run / "adapter").is_dir()
        == any("lora" in o for o in overrides)
    )
    if (run / "adapter").is_dir():
        assert contents(tmp_path / "out_adapter") == contents(run / "adapter")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_generator_is_what_its_run_left_at_any_step(precision: str, captions: Path, tmp_path: Path) -> None:
    """The rate is constant: a run that ends at step 2 leaves what a longer one was there."""
    overrides = (*GENERATOR, f"engine.precision={precision}")
    generation.train(tiny_generator.recipe(captions, tmp_path / "run", *overrides))
    export(tmp_path / "run")
    exports = tmp_path / "run" / "exports"
    assert contents(exports / "step_00000004") == contents(tmp_path / "run" / "model")
    if precision == "fp32":
        generation.train(tiny_generator.recipe(captions, tmp_path / "short", *overrides, "steps=2"))
        export(tmp_path / "run", "--step", 2)
        assert contents(exports / "step_00000002") == contents(tmp_path / "short" / "model")


def test_a_source_that_is_elsewhere_here_is_named(captions: Path, shelf: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    generation.train(tiny_generator.recipe(captions, run, *GENERATOR))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(captions / "vqrae"), str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"model.tokenizer.source: .*gone: no such folder"):
        export(run)
    with pytest.raises(UserError, match="step_00000004"):  # another VQRAE than its codes are of
        export(run, f"model.tokenizer.source={captions / 'other_vqrae'}")
    export(run, f"model.tokenizer.source={captions / 'vqrae'}")
    assert contents(run / "exports" / "step_00000004") == contents(run / "model")


def test_a_run_is_exported_while_it_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of its third save: a half checkpoint lies beside the whole one."""
    run, original = tmp_path / "run", Checkpoints._publish

    def look(self: Checkpoints, final: Path, *rest: Any) -> None:
        if final.name == "step_00000006":
            with pytest.raises(UserError, match="has left no model yet; `vqrae export"):
                load_vqrae(str(run))
            before = contents(run / "checkpoints")
            export(run)
            assert contents(run / "checkpoints") == before
        original(self, final, *rest)

    monkeypatch.setattr(Checkpoints, "_publish", look)
    quick = ("evaluation.images=null", "checkpoint.save_every=2", "logging.picture_every=1000")
    tokenizer.train(tiny.tokenizer_recipe(pictures, run, *quick))
    assert [path.name for path in (run / "exports").iterdir()] == ["step_00000004"]
    assert load_vqrae(str(run))[1] == run / "model"


@pytest.mark.parametrize("when", ["before it is opened", "while it is read"])
def test_a_checkpoint_that_the_run_removes_meanwhile(
    when: str,
    stage_2: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = moved(stage_2, tmp_path / "run")
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "step_00000007", tmp_path / "newer")
    calls: list[int] = []

    def rotate() -> None:
        if not calls:
            for old in checkpoints.glob("step_*"):
                shutil.rmtree(old)
            write_again(tmp_path / "newer", checkpoints, 9)
        calls.append(1)

    def first(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            rotate()
            return function(*arguments, **named)

        return wrapped

    name = "_held" if when == "before it is opened" else "_export"
    monkeypatch.setattr(command, name, first(getattr(command, name)))
    export(run)
    said = capsys.readouterr().out
    (written,) = (run / "exports").iterdir()
    if when == "before it is opened":
        assert written.name == "step_00000009" and "the run has gone on meanwhile" in said
    else:  # what is open stays readable
        assert written.name == "step_00000007" and len(calls) == 1
    assert contents(written) == contents(stage_2 / "model")


def write_again(checkpoint: Path, checkpoints: Path, step: int) -> None:
    """The same tensors as the checkpoint of another step."""
    from common.training.stored.manifest import read_manifest, step_folder, write_manifest

    origin = checkpoint.with_name("step_00000007")
    shutil.copytree(checkpoint, origin, dirs_exist_ok=True)
    files = read_manifest(origin)
    target = checkpoints / step_folder(step)
    shutil.copytree(origin, target)
    write_manifest(target, step, files)
    (checkpoints / "latest").write_text(f"{target.name}\n")


def test_what_cannot_be_exported_is_one_line(stage_2: Path, tmp_path: Path) -> None:
    run = moved(stage_2, tmp_path / "run")
    (tmp_path / "taken").mkdir()
    for arguments, complaint in (
        ([tmp_path], f"{tmp_path}: no run of a trainer: it has no checkpoints/"),
        ([run, "--step", 1], "step_00000001: no such checkpoint; there are: step_0000000., step_00000007"),
        ([run, "--out", tmp_path / "taken"], "taken: is there already"),
        ([run, "codebook_size=3"], "codebook_size: unknown key"),
        ([run, "model.codebook_dim"], "expected key.path=value"),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            export(*arguments)
        assert "\n" not in str(error.value)
    damaged = next((run / "checkpoints" / "step_00000007").glob("*.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="damaged: its SHA-256"):
        export(run, "--step", 7)
    (run / "checkpoints" / "best").unlink()
    with pytest.raises(UserError, match=r"no best checkpoint; the recipe's checkpoint.best"):
        export(run, "--best")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint yet"):
        export(run)


def test_without_an_average_none_can_be_asked_for(captions: Path, tmp_path: Path) -> None:
    generation.train(tiny_generator.recipe(captions, tmp_path / "run", *GENERATOR, "steps=1"))
    with pytest.raises(UserError, match="--ema: holds no moving average"):
        export(tmp_path / "run", "--ema")
