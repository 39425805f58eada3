"""What the fields of a recipe do to a run, asserted where they act: inside whole runs, and in what these leave."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pair_jobs
import pytest
import tiny
import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel
from watched import Engine, watched

from common.errors import UserError
from common.models.vqrae import VQRAE
from common.training.ema import ShardedEMA
from tokenizer import assemble, codebook_revival
from tokenizer.config import TokenizerConfig
from tokenizer.train import train

EVERYTHING = (  # of stage 2, in one run from a fresh model, as the recipes for real encoders have it
    *tiny.STAGE_2,
    "engine={precision: bf16_autocast, activation_checkpointing: true, zero_stage: 2}",
    "model.gradient=rotation",
    "data.workers=2",
    "logging.log_every=1",
    "checkpoint={save_every: 2, keep: 2}",
    "optimizer.adamw={betas: [0.8, 0.95], weight_decay: 0.3, eps: 1e-6, max_grad_norm: 0.4}",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


class Seen:
    """A run, its engines, its teacher, and what the model was as the engine took it over."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.run, self.teacher, self.before = Path(config.output), None, {}
        self.teacher_before: dict[str, Tensor] = {}
        assemble_teacher, start_generator = assemble.assemble_teacher, assemble.start_generator

        def keep_teacher(model: Any, config: Any) -> Any:
            self.teacher = assemble_teacher(model, config)
            if self.teacher is not None:
                self.teacher_before = copy.deepcopy(self.teacher.state_dict())
            return self.teacher

        def keep_start(model: Any, config: Any) -> Any:
            self.before = copy.deepcopy(model.state_dict())
            return start_generator(model, config)

        with watched() as engines, pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble, "assemble_teacher", keep_teacher)
            patch.setattr(assemble, "start_generator", keep_start)
            train(config)
        self.generator: Engine = engines[0]
        self.discriminator: Engine | None = engines[1] if len(engines) > 1 else None
        self.exported = VQRAE.from_pretrained(self.run / "model")

    def lines(self, kind: str = "train") -> list[dict[str, Any]]:
        read = map(json.loads, (self.run / "metrics.jsonl").read_text().splitlines())
        return [line for line in read if line["kind"] == kind]


@pytest.fixture(scope="module")
def everything(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tiny.tokenizer_recipe(pictures, tmp_path_factory.mktemp("everything") / "run", *EVERYTHING))


@pytest.fixture(scope="module")
def stage_1(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tiny.tokenizer_recipe(pictures, tmp_path_factory.mktemp("stage_1") / "run"))


def test_layers_are_computed_again_where_the_recipe_asks(everything: Seen, stage_1: Seen) -> None:
    """Twice a micro-batch with activation checkpointing, from the first on, and once without."""
    for seen, times in ((everything, 2), (stage_1, 1)):
        passes = seen.generator.passes
        assert (
            len(passes) == 2 and seen.generator.micro_steps == 6 * 2
        )  # a layer of the encoder, one of the decoder
        assert set(passes.values()) == {times * 12}, passes
    assert everything.generator.reentrant == {False}


def test_products_run_in_the_precision_of_the_recipe(everything: Seen, stage_1: Seen) -> None:
    """Training and evaluation alike; the codebook's side and the weights are float32 in any case."""
    for learning in (True, False):
        for part in ("encoder.", "decoder."):
            assert everything.generator.dtype(part, learning) == {torch.bfloat16}, (part, learning)
        assert everything.generator.dtype("quantizer.", learning) == {torch.float32}
        assert stage_1.generator.dtype("", learning) == {torch.float32}
    assert {parameter.dtype for parameter in everything.generator.module.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in everything.exported.state_dict().values()} == {torch.float32}


def test_a_fresh_model_reads_with_the_encoder_that_the_recipe_names(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    named = SiglipVisionModel(SiglipVisionConfig(**tiny.SIGLIP))
    named.save_pretrained(tmp_path / "encoder")
    recipe = tiny.tokenizer_recipe(pictures, tmp_path / "run", f"model.encoder.source={tmp_path / 'encoder'}")
    mine = assemble.assemble_model(recipe).encoder.state_dict()
    layers = {name: tensor for name, tensor in named.state_dict().items() if "layers.0" in name}
    assert layers
    for name, tensor in layers.items():
        (found,) = (own for key, own in mine.items() if key.endswith(name[name.index("layers.0") :]))
        assert torch.equal(found, tensor), name


def test_the_teacher_is_a_frozen_copy(everything: Seen, stage_1: Seen) -> None:
    assert stage_1.teacher is None and everything.teacher is not None
    teacher = everything.teacher
    assert not any(parameter.requires_grad for parameter in teacher.parameters()) and not teacher.training
    live = {tensor.data_ptr() for tensor in everything.generator.module.state_dict().values()}
    for name, tensor in teacher.state_dict().items():
        assert tensor.data_ptr() not in live
        assert torch.equal(tensor, everything.teacher_before[name]), name
        assert torch.equal(tensor, everything.before[f"encoder.{name}"]), name
    first, last = everything.lines()[0], everything.lines()[-1]
    assert first["distillation"] < 1e-6 < last["distillation"] and last["teacher_cosine"] < 0.99999


def test_the_quantizer_reads_the_hidden_states_that_the_recipe_names(
    stage_1: Seen, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both stages, with the teacher near; another recipe than the checkpoint's is refused; and dead codes come back
    where the quantizer reads."""
    layers = "model.quantizer_layers=[0, 1]"
    one = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "one", layers))
    assert list(one.exported.config.quantizer_layers or ()) == [0, 1]
    for name in ("feature_mean", "codebook"):
        own, other = (seen.exported.quantizer.get_buffer(name) for seen in (one, stage_1))
        assert not torch.allclose(own, other), name
    former, quick = f"init_from={one.run / 'model'}", "evaluation.images=null"
    with pytest.raises(
        UserError, match=r"model\.quantizer_layers: the recipe states None, the checkpoint has \[0, 1\]"
    ):
        assemble.assemble_model(tiny.tokenizer_recipe(pictures, tmp_path / "two", former))
    for stated in ("[1]", "[0]"):
        other_layers = f"model.quantizer_layers={stated}"
        with pytest.raises(UserError, match=r"the checkpoint has \[0, 1\]"):
            assemble.assemble_model(tiny.tokenizer_recipe(pictures, tmp_path / "two", former, other_layers))
    given: list[Tensor] = []
    revive = codebook_revival.revive
    monkeypatch.setattr(codebook_revival, "revive", lambda *a: (given.append(a[2]), revive(*a))[1])
    held = ("loss.quantizer_distillation=2.0", "logging.log_every=1", quick)
    watch = ("codebook_watch={min_usage: 1.0, lines: 1, revive: true}",)
    two = Seen(
        tiny.tokenizer_recipe(pictures, tmp_path / "two", *tiny.STAGE_2, former, layers, *held, *watch)
    )
    first, last = two.lines()[0], two.lines()[-1]
    assert first["quantizer_distillation"] < 1e-6 < last["quantizer_distillation"]
    assert first["distillation"] < 1e-6 < last["distillation"]
    assert sum(line.get("revived_codes", 0) for line in two.lines()) > 0
    assert max(float(features.mean(-1).abs().max()) for features in given) < 1e-5  # tokens are normalised
    # Every way of exporting says what is read.
    assert json.loads((two.run / "model_config.json").read_text())["quantizer_layers"] == [0, 1]


def test_each_role_learns_at_its_rate(everything: Seen, stage_1: Seen) -> None:
    def cosine(step: int, peak: float, total: int) -> float:
        if step < 2:
            return peak * step / 2
        return 1e-4 + (peak - 1e-4) * (1 + math.cos(math.pi * (step - 2) / (total - 2))) / 2

    peaks = {"encoder": 1e-4, "decoder": 1e-3}
    for step, rates in enumerate(everything.generator.rates):
        for name, found in rates.items():
            assert found == pytest.approx(cosine(step, peaks[name.split("/")[0]], 6)), (step, name)
    assert everything.discriminator is not None and len(everything.discriminator.rates) == 5  # from step 2 on
    for step, rates in enumerate(everything.discriminator.rates):
        assert list(rates.values()) == pytest.approx([cosine(step, 1e-3, 5)] * 2)
    assert {name.split("/")[0] for name in stage_1.generator.groups} == {"decoder"}
    roles = {id(p): name.split(".")[0] for name, p in everything.generator.module.named_parameters()}
    for name, group in everything.generator.groups.items():
        expected = {"encoder"} if name.startswith("encoder") else {"quantizer", "decoder"}
        assert {roles[parameter] for parameter in group["params"]} <= expected, name


def test_the_optimizer_is_the_recipes(everything: Seen) -> None:
    assert everything.discriminator is not None
    for engine in (everything.generator, everything.discriminator):
        for name, group in engine.groups.items():
            assert (*group["betas"], group["eps"]) == (0.8, 0.95, 1e-6)
            assert group["weight_decay"] == (0.0 if name.endswith("/no_decay") else 0.3)
        assert engine.engine.gradient_clipping() == 0.4
        assert engine.engine.zero_optimization_stage() == 2
        assert engine.engine.gradient_accumulation_steps() == 2
        grouped = [parameter for group in engine.groups.values() for parameter in group["params"]]
        assert len(set(grouped)) == len(grouped) == len(engine.learned())


def test_weight_decay_shrinks_what_no_gradient_reaches(pictures: Path, tmp_path: Path) -> None:
    """The decoder's last layer of a loss without reconstruction: it moves by the decay alone."""
    silent = ("loss.reconstruction=0.0", "loss.perceptual=0.0", "evaluation.images=null", "steps=3")
    decay = "optimizer.adamw={betas: [0.9, 0.999], weight_decay: 50.0, max_grad_norm: 1.0}"
    seen = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "run", *silent, decay))
    before, after = seen.before, seen.exported.state_dict()
    # Rates 0, 0.5e-3 and 1e-3 in three steps.
    expected = (1 - 50 * 0.5e-3) * (1 - 50 * 1e-3)
    torch.testing.assert_close(
        after["decoder.to_pixels.weight"], before["decoder.to_pixels.weight"] * expected, atol=1e-5, rtol=1e-3
    )
    assert torch.equal(after["decoder.to_pixels.bias"], before["decoder.to_pixels.bias"])


def test_a_frozen_encoder_requires_no_gradient(everything: Seen, stage_1: Seen) -> None:
    """And of a learning one, only what is read does."""
    assert not any(name.startswith("encoder.") for name in stage_1.generator.learned())
    for name, tensor in stage_1.exported.encoder.state_dict().items():
        assert torch.equal(tensor, stage_1.before[f"encoder.{name}"]), name
    frozen = set(dict(everything.generator.module.named_parameters())) - everything.generator.learned()
    assert frozen and all(".head." in name or ".post_layernorm." in name for name in frozen)


def test_a_fresh_codebook_comes_from_the_data(stage_1: Seen, pictures: Path, tmp_path: Path) -> None:
    """And that of an `init_from` stays as it was."""
    assert not torch.equal(stage_1.exported.quantizer.feature_std, torch.ones(16))
    assert stage_1.exported.quantizer.feature_mean.abs().max() > 0
    assert stage_1.lines()[-1]["usage"] > 0.5
    later = (f"init_from={stage_1.run / 'model'}", "steps=1", "seed=1", "evaluation.images=null")
    again = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "run", *later))
    for name, tensor in stage_1.exported.quantizer.named_buffers():
        assert torch.equal(tensor, again.before[f"quantizer.{name}"]), name


def test_the_exported_model_is_the_average(everything: Seen, stage_1: Seen) -> None:
    """An engine's own weights are another model; without `ema` they are the result."""
    own, exported = everything.generator.module.state_dict(), everything.exported.state_dict()
    assert not torch.equal(own["decoder.to_pixels.weight"], exported["decoder.to_pixels.weight"])
    assert all(torch.equal(own[name], exported[name]) for name in own if name.startswith("quantizer.feature"))
    last = stage_1.generator.module.state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in stage_1.exported.state_dict().items())
    # (1 + t) / (10 + t) for the update that comes next, t = 6 done.
    assert everything.lines()[-1]["ema_decay"] == pytest.approx(7 / 16)
    assert "ema_decay" not in stage_1.lines()[-1]


def test_what_is_evaluated_is_the_average(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An average that never moves scores as at the start, whatever is learned; its own weights come back after."""
    monkeypatch.setattr(ShardedEMA, "update", lambda self: None)
    quick = ("ema=true", "logging={log_every: 1, picture_every: 9, evaluate_every: 2, writers: []}")
    seen = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "run", *quick))
    scores = [(line["psnr"], line["usage"]) for line in seen.lines("evaluation")]
    assert len(scores) == 3 and len(set(scores)) == 1
    own = seen.generator.module.state_dict()
    assert not torch.equal(own["decoder.to_pixels.weight"], seen.before["decoder.to_pixels.weight"])
    assert all(torch.equal(seen.before[name], tensor) for name, tensor in seen.exported.state_dict().items())


@pytest.mark.parametrize(
    "term",
    ["reconstruction", "codebook", "commitment", "perceptual", "distillation", "quantizer_distillation"],
)
def test_a_term_is_learned_from(term: str, pictures: Path, tmp_path: Path) -> None:
    """One step with all weights 0 but one: the gradient's norm is reported, and it moves what it can reach."""
    weights = {
        "reconstruction": 0.0,
        "codebook": 0.0,
        "commitment": 0.0,
        "perceptual": 0.0,
        "distillation": 0.0,
        "quantizer_distillation": 0.0,
    }
    stated = [f"loss.{name}={value}" for name, value in (weights | {term: 1.0}).items()]
    learning = ("model.freeze_encoder=false", "optimizer.encoder_lr=1e-3", "optimizer.warmup_steps=0")
    quick = ["evaluation.images=null", "logging.log_every=1", "steps=2"]
    quick += ["model.quantizer_layers=[0, 1]"] if term == "quantizer_distillation" else []
    seen = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "run", *stated, *learning, *quick))
    after = seen.exported.state_dict()
    moved = {
        name.split(".")[0]
        for name, tensor in seen.before.items()
        if (after[name] - tensor).abs().max() > 3e-4 and not name.startswith("quantizer.feature")
    }
    reached = {
        "reconstruction": {"encoder", "quantizer", "decoder"},
        "perceptual": {"encoder", "quantizer", "decoder"},
        "codebook": {"quantizer"},
        "commitment": {"encoder", "quantizer"},
        "distillation": {"encoder"},
        "quantizer_distillation": {"encoder"},
    }
    first = seen.lines()[0]
    if "distillation" not in term:  # which starts at its minimum
        assert moved == reached[term] and first["grad_norm"] > 0
    reported = {"reconstruction": "l2"}.get(term, term)
    assert first["loss"] == pytest.approx(first[reported], rel=1e-4, abs=1e-9)


def test_workers_and_rotation(stage_1: Seen, everything: Seen, pictures: Path, tmp_path: Path) -> None:
    """Workers change nothing; the rotation changes what is learned, and is written down."""
    quick = "logging={log_every: 1, picture_every: 9, evaluate_every: 9, writers: []}"
    workers = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "workers", "data.workers=2", quick))
    assert pair_jobs.digest(workers.exported) == pair_jobs.digest(stage_1.exported)
    rotated = Seen(tiny.tokenizer_recipe(pictures, tmp_path / "rotated", "model.gradient=rotation", quick))
    assert pair_jobs.digest(rotated.exported) != pair_jobs.digest(stage_1.exported)
    # Values are those of the codes either way: the first step reports the same, the gradients differ.
    assert rotated.lines()[0]["l2"] == pytest.approx(workers.lines()[0]["l2"], rel=1e-5)
    assert rotated.lines()[0]["grad_norm"] != pytest.approx(workers.lines()[0]["grad_norm"], rel=1e-4)
    assert rotated.exported.config.gradient == everything.exported.config.gradient == "rotation"
    assert stage_1.exported.config.gradient == "straight_through"


def test_the_run_is_as_long_and_as_talkative_as_it_says(everything: Seen, stage_1: Seen) -> None:
    assert [line["step"] for line in everything.lines()] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in stage_1.lines()] == [2, 4, 6]
    for seen, saved in ((everything, (4, 6)), (stage_1, (3, 6))):
        assert [line["step"] for line in seen.lines("evaluation")] == [3, 6]
        kept = sorted(path.name for path in (seen.run / "checkpoints").glob("step_*"))
        assert kept == [f"step_{step:08d}" for step in saved]
