"""The trainer as a whole, on a recipe so small that a run takes a second: what it writes, resumes and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pair_jobs
import pytest
import tiny_generator
import torch
from PIL import Image

from common.errors import UserError
from common.training.command import RunOptions
from common.training.records import read_records
from generation.assemble import assemble_generator, start_generator
from generation.extract_codes import extract
from generation.model_folder import load_generator
from generation.objective import NextCode
from generation.train import train

MUON = ["optimizer.muon={lr: 0.02}", "optimizer.adamw.max_grad_norm=null"]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("generation"))


@pytest.fixture(scope="session")
def finished(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_generator.recipe(shelf, run))
    return run


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return read_records(run, kind)


def weights(run: Path) -> str:
    return pair_jobs.digest(load_generator(str(run / "model")).model)


def test_a_run_leaves_the_documented_layout(finished: Path) -> None:
    found = {path.name for path in finished.iterdir()}
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
    lines = records(finished, "train")
    seen = {"loss", "perplexity", "accuracy", "grad_norm", "lr", "images_per_second", "tokens_per_second"}
    assert seen | {"padding", "data_wait", "memory_gib", "skipped"} <= set(lines[-1])
    assert lines[0]["perplexity"] == pytest.approx(32, rel=0.02)  # all codes are equally likely at first
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [line["images"] for line in records(finished, "evaluation")] == [5, 5]
    for step in (3, 6):
        with Image.open(finished / "pictures" / f"step_{step:08d}.png") as page:
            assert page.width > 2 * 96 and page.height > 3 * 96  # three prompts, two pictures each


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01]),
        ("cosine", [0.0, 0.0025, 0.005, 0.0075, 0.01, 0.005]),
    ],
)
def test_the_rate_warms_up_and_follows_its_schedule(
    schedule: str, expected: list[float], shelf: Path, tmp_path: Path
) -> None:
    quiet = (
        f"optimizer.schedule={schedule}",
        "logging.log_every=1",
        "samples.prompts=[]",
        "evaluation.source=null",
        "optimizer.warmup_steps=4",
    )
    train(tiny_generator.recipe(shelf, tmp_path / "run", *quiet))
    rates = [line["lr"] for line in records(tmp_path / "run", "train")]
    assert rates == pytest.approx(expected)


def test_the_result_holds_its_vqrae(finished: Path, shelf: Path) -> None:
    generator = load_generator(str(finished / "model"))
    assert pair_jobs.digest(generator.vqrae) == pair_jobs.digest(
        tiny_generator.VQRAE.from_pretrained(shelf / "vqrae")
    )
    assert generator.vocabulary.max_length == 40 and generator.vocabulary.grid == (4, 4)


@pytest.mark.parametrize(("extracted", "optimizer"), [(True, []), (False, []), (False, MUON)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    extracted: bool, optimizer: list[str], shelf: Path, tmp_path: Path
) -> None:
    overrides = ["logging.log_every=1", *optimizer]
    if extracted:
        overrides.append(f"data.codes={tmp_path / 'codes'}")
        extract(tiny_generator.recipe(shelf, tmp_path, *overrides), 2, 4)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(tiny_generator.recipe(shelf, whole, *overrides))

    original, calls = NextCode.forward, []

    def stop_at_step_5(self: Any, *inputs: Any) -> Any:
        if self.training:
            calls.append(1)
        if len(calls) == 2 * 4 + 2:  # in the middle of step 5; the last checkpoint is that of step 3
            raise KeyboardInterrupt
        return original(self, *inputs)

    config = tiny_generator.recipe(shelf, resumed, *overrides)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NextCode, "forward", stop_at_step_5)
        train(config)
    train(config)
    losses = [[line["loss"] for line in records(run, "train")] for run in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert weights(whole) == weights(resumed)
    for step in (3, 6):
        pages = [(run / "pictures" / f"step_{step:08d}.png").read_bytes() for run in (whole, resumed)]
        assert pages[0] == pages[1]


@pytest.mark.parametrize("precision", ["bf16", "bf16_autocast"])
def test_other_precisions_train_and_resume(precision: str, shelf: Path, tmp_path: Path) -> None:
    overrides = [f"engine.precision={precision}", "evaluation.limit=2"]
    train(tiny_generator.recipe(shelf, tmp_path / "whole", *overrides))
    for steps in (3, 6):
        train(tiny_generator.recipe(shelf, tmp_path / "resumed", *overrides, f"steps={steps}"))
    assert weights(tmp_path / "whole") == weights(tmp_path / "resumed")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert load_generator(str(tmp_path / "whole" / "model")).model.dtype == dtype


def test_bfloat16_spares_the_rotary_frequencies(shelf: Path, tmp_path: Path) -> None:
    """Rounded, they would turn a thousand codes by other angles than the saved model does."""
    config = tiny_generator.recipe(shelf, tmp_path, "engine.precision=bf16")
    generator = assemble_generator(config)
    before = {name: buffer.clone() for name, buffer in generator.model.named_buffers()}
    model = NextCode(generator.model, generator.vocabulary, "codes")
    start_generator(model, config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    for name, buffer in generator.model.named_buffers():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, before[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_muon_moves_matrices_by_its_rate(stage: int, precision: str, shelf: Path, tmp_path: Path) -> None:
    """One step at full rate: the largest singular value of a matrix's change is about the rate, whatever the gradient
    was; embeddings and norms move as AdamW moves them."""
    overrides = ["steps=1", "optimizer.warmup_steps=0", f"engine.zero_stage={stage}", "optimizer.lr=1e-3"]
    # The codes' rows differ from the start: from equal ones, layers would get no gradient yet.
    overrides += [f"engine.precision={precision}", "model.new_embeddings=codebook"]
    config = tiny_generator.recipe(shelf, tmp_path / "run", *overrides, *MUON)
    before = assemble_generator(config).model.float().state_dict()
    train(config)
    after = load_generator(str(tmp_path / "run" / "model")).model.state_dict()
    for name, weight in before.items():
        step = after[name].float() - weight
        if "_proj" in name:
            rows, columns = weight.shape
            largest = torch.linalg.matrix_norm(step, 2) / (0.02 * max(1, rows / columns) ** 0.5)
            assert 0.5 < largest < 1.5, name
        else:
            assert step.abs().max() <= 1.2e-3, name


def test_accumulation_does_not_change_the_training(shelf: Path, tmp_path: Path) -> None:
    for micro in (1, 4):
        train(
            tiny_generator.recipe(
                shelf, tmp_path / str(micro), f"batch.micro_size={micro}", "optimizer.adamw.eps=1e-8"
            )
        )
    same_weights(tmp_path / "1", tmp_path / "4")


def same_weights(one: Path, other: Path, atol: float = 5e-4) -> None:
    states = [load_generator(str(run / "model")).model.state_dict() for run in (one, other)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(
            tensor, states[1][name], atol=atol, rtol=1e-3, msg=lambda text: f"{name}: {text}"
        )


@pytest.mark.parametrize(("extracted", "optimizer"), [(True, []), (False, []), (True, MUON)])
def test_two_processes_train_like_one(
    pair: Any, extracted: bool, optimizer: list[str], shelf: Path, tmp_path: Path
) -> None:
    overrides = ["optimizer.adamw.eps=1e-8", *optimizer, *(["seed=1"] if optimizer else [])]
    if extracted:
        overrides.append(f"data.codes={tmp_path / 'codes'}")
        extract(tiny_generator.recipe(shelf, tmp_path, *overrides), 2, 4)
    train(tiny_generator.recipe(shelf, tmp_path / "one", *overrides))
    both = pair.run("train_generator", shelf=str(shelf), output=str(tmp_path / "two"), overrides=overrides)
    assert both[0] == both[1]
    # Muon's update is computed in bfloat16, which rounds what differs by 1e-7 to neighbours 1/256 apart. How far that
    # goes in six steps depends on the draws: 1 to 3 in a thousand for seeds 0 to 2.
    same_weights(tmp_path / "one", tmp_path / "two", 2e-3 if optimizer else 5e-4)
    for stop_after in (3, None):  # interrupted and resumed by two processes, bit for bit
        again = {"output": str(tmp_path / "resumed"), "overrides": overrides, "stop_after": stop_after}
        pair.run("train_generator", shelf=str(shelf), **again)
    assert weights(tmp_path / "two") == weights(tmp_path / "resumed")


def test_training_goes_on_from_a_generator(finished: Path, shelf: Path, tmp_path: Path) -> None:
    """At another resolution, too: the ids stay what they were."""
    former = f"init_from={finished / 'model'}"
    bigger = ["data.image_size=24", "data.max_length=60", "steps=1", "optimizer.lr=1e-9"]
    train(tiny_generator.recipe(shelf, tmp_path / "run", former, *bigger))
    generator = load_generator(str(tmp_path / "run" / "model"))
    assert generator.vocabulary.grid == (6, 6) and generator.vocabulary.max_length == 60
    for name, tensor in load_generator(str(finished / "model")).model.state_dict().items():
        torch.testing.assert_close(generator.model.state_dict()[name], tensor, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"init_from: .*: belongs to another VQRAE"):
        train(
            tiny_generator.recipe(
                shelf, tmp_path / "other", former, f"model.tokenizer.source={shelf / 'other_vqrae'}"
            )
        )


def test_a_run_is_not_resumed_with_another_vqrae(finished: Path, shelf: Path) -> None:
    """Not even where another source is allowed: the codes would mean other pictures."""
    recipe = tiny_generator.recipe(shelf, finished, f"model.tokenizer.source={shelf / 'other_vqrae'}")
    with pytest.raises(UserError, match="step_00000006: belongs to another VQRAE"):
        train(recipe, RunOptions(allow_change=("model.tokenizer.source",)))


def test_a_model_from_scratch(shelf: Path, tmp_path: Path) -> None:
    scratch = ["model.language_model.source=null", f"model.language_model.text_tokenizer={shelf / 'qwen3'}"]
    for start in ("codebook", "normal"):
        train(tiny_generator.recipe(shelf, tmp_path / start, *scratch, f"model.new_embeddings={start}"))
        first, *_, last = records(tmp_path / start, "train")
        assert last["loss"] < first["loss"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["init_from=gone"], "init_from: gone: no such folder"),
        (["init_from={shelf}/qwen3"], "init_from: .*no vqrae/ in this folder"),
        (["model.tokenizer.source={shelf}/qwen3"], "model.tokenizer.source: .*expected 'vqrae'"),
        (["model.tokenizer.codebook_size=64"], "codebook_size: the recipe states 64, the checkpoint has 32"),
        (
            ["model.tokenizer.quantizer_layers=[0, 1]"],
            r"quantizer_layers: the recipe states \[0, 1\], the checkpoint has None",
        ),
        (
            ["model.tokenizer.encoder.hidden_size=32"],
            "hidden_size: the recipe states 32, the checkpoint has 16",
        ),
        (["model.language_model.source={shelf}/vqrae"], "cannot be loaded as a language model|vqrae"),
        (["model.language_model.architecture.hidden_size=32"], "hidden_size: the recipe states 32"),
        (["model.language_model.text_vocabulary=400"], "the text tokenizer has .* expected 400 tokens"),
        (["batch.global_size=3"], "batch.global_size: 3 is no multiple"),
        (["data.sources.0.path=gone"], "gone"),
        (["samples.prompts=[" + "red " * 50 + "]"], "fit beside a picture; shorten it"),
        (["samples.sampling.top_k=33"], "samples.sampling.top_k: expected at most the 32 codes, found 33"),
    ],
)
def test_bad_input_is_one_line(overrides: list[str], complaint: str, shelf: Path, tmp_path: Path) -> None:
    given = [override.replace("{shelf}", str(shelf)) for override in overrides]
    with pytest.raises(UserError, match=complaint) as error:
        train(tiny_generator.recipe(shelf, tmp_path / "run", *given))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            "data.max_length=18",
            "data.max_length: 18 leaves no room for text beside 16 image tokens and 2 marks",
        ),
        ("data.image_size=18", "data.image_size: expected a multiple of model.tokenizer.output_patch_size 4"),
        ("data.prompt_dropout=1.5", "prompt_dropout: expected a share"),
        ("samples.sampling.cfg_scale=-1.0", "samples.sampling.cfg_scale: expected 0 to 1000"),
        ("samples.sampling.top_k=0", "samples.sampling.top_k: expected 1 or more"),
        ("model.tokenizer.quantizer_layers=[0, 2]", "model.tokenizer.quantizer_layers: expected numbers of"),
        ("optimizer.muon={lr: 0.02}", "adamw.max_grad_norm: expected null beside muon"),
        ("optimizer.muon={lr: 0.0}", "muon.lr: expected a positive number"),
        ("engine.zero_stage=3", "engine.zero_stage: the generator supports 0, 1 and 2"),
        ("optimizer.schedule=linear", "optimizer.schedule: expected 'constant' or 'cosine'"),
        ("model.language_model.source=null", "text_tokenizer: expected a folder or hub id"),
        ("model.language_model.architecture.model_type=llama", "model_type: expected 'qwen3', found 'llama'"),
    ],
)
def test_recipes_that_do_not_fit(override: str, complaint: str, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        tiny_generator.recipe(shelf, tmp_path, override)


def test_muon_and_offload_do_not_fit(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine.offload: expected none beside optimizer.muon"):
        tiny_generator.recipe(shelf, tmp_path, *MUON, "engine.offload=cpu")


@pytest.mark.parametrize("override", ["data.flip=true", "data.crop=random"])
def test_extracted_codes_are_those_of_centre_crops(override: str, shelf: Path, tmp_path: Path) -> None:
    tiny_generator.recipe(shelf, tmp_path, override)
    with pytest.raises(UserError, match=r"data.codes: extracted codes are those of unflipped centre crops"):
        tiny_generator.recipe(shelf, tmp_path, override, f"data.codes={tmp_path}")


def test_a_non_finite_loss_stops_the_run_and_keeps_the_checkpoint(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = NextCode.forward, []

    def diverge(self: Any, *inputs: Any) -> Any:
        output = original(self, *inputs)
        calls.append(1)
        if len(calls) > 2 * 4:
            output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(NextCode, "forward", diverge)
    quiet = ("evaluation.source=null", "guard.max_in_a_row=2")
    with pytest.raises(UserError, match=r"2 bad steps in a row; .*loss loss not finite on rank 0"):
        train(tiny_generator.recipe(shelf, tmp_path / "run", *quiet))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == "step_00000003"
    assert not (tmp_path / "run" / "model").exists()
