"""What the fields of a recipe do to a run, asserted where they act: against plain torch, and seen from inside."""

from __future__ import annotations

import copy
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from plain_torch import PlainAdamW, cosine
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration
from watched import Engine, watched

from understanding import assemble, batches
from understanding.train import train

ADAMW = "optimizer.adamw={betas: [0.8, 0.95], weight_decay: 0.3, eps: 1e-6, max_grad_norm: 0.4}"
UNUSUAL = (
    ADAMW,
    "optimizer.lr=2e-3",
    "optimizer.projector_lr=5e-3",
    "optimizer.end_lr=1e-4",
    "optimizer.warmup_ratio=0.3",
    "seed=3",
)


@contextmanager
def recorded() -> Iterator[list[list[batches.Batch]]]:
    """The micro-batches of each step of what trains inside."""
    seen: list[list[batches.Batch]] = []
    training_batches = batches.training_batches

    def record(*arguments: Any, **more: Any) -> Iterator[list[batches.Batch]]:
        for step in training_batches(*arguments, **more):
            seen.append(step)
            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "training_batches", record)
        yield seen


@pytest.fixture(scope="module")
def pretrained(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    train(tiny.understanding_recipe(shelf, run, "epochs=1", "logging.picture_every=9"))
    return run


def tuning(shelf: Path, pretrained: Path, output: Path, *overrides: str) -> Any:
    start = f"init_from={pretrained / 'model'}"
    quiet = "logging={log_every: 1, picture_every: 99, evaluate_every: 99, writers: []}"
    return tiny.understanding_recipe(shelf, output, start, *tiny.FINE_TUNING, quiet, *overrides)


@pytest.mark.parametrize("stage", [2, 3])
def test_fine_tuning_equals_plain_torch(stage: int, shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    """The library's whole model, in its own forward pass, under an optimizer that knows nothing of ours."""
    run = tmp_path / "run"
    with recorded() as steps:
        train(tuning(shelf, pretrained, run, *UNUSUAL, f"engine.zero_stage={stage}"))
    assert len(steps) == 6 and all(len(step) == 2 for step in steps)

    model = LlavaForConditionalGeneration.from_pretrained(pretrained / "model").train()
    model.model.vision_tower.requires_grad_(False)

    def rate(peak: float) -> Callable[[int], float]:
        return lambda step: cosine(step, peak, 1e-4, 2, 6)  # 0.3 of 6 steps, rounded up

    ours = PlainAdamW(
        [
            (model.model.language_model, rate(2e-3)),
            (model.lm_head, rate(2e-3)),
            (model.model.multi_modal_projector, rate(5e-3)),
        ]
    )
    for step in steps:
        learned = sum(len(batch["targets"]) for batch in step)
        for batch in step:
            pixels = batch["pixel_values"] if len(batch["pixel_values"]) else None
            found = model(batch["input_ids"], pixel_values=pixels, attention_mask=batch["attention_mask"])
            rows = found.logits.flatten(0, 1)[batch["predictors"]]
            (F.cross_entropy(rows, batch["targets"], reduction="sum") / learned).backward()
        ours.step()
    trained = LlavaForConditionalGeneration.from_pretrained(run / "model").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            trained[name], tensor, atol=5e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )


def seen_training(config: Any) -> Engine:
    with watched() as engines:
        train(config)
    (engine,) = engines
    return engine


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[2] if name.startswith("llava.model") else name.split(".")[1] for name in names}


def test_only_what_is_named_learns(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    projector = seen_training(
        tuning(shelf, pretrained, tmp_path / "one", "model.train=[projector]", "epochs=1")
    )
    assert parts(projector.learned()) == {"multi_modal_projector"}
    assert {name.split("/")[0] for name in projector.groups} == {"projector"}
    language = "model.train=[language_model]"
    other = seen_training(tuning(shelf, pretrained, tmp_path / "two", language, "epochs=1"))
    assert parts(other.learned()) == {"language_model", "lm_head"}
    before, after = (load_file(run / "model" / "model.safetensors") for run in (pretrained, tmp_path / "two"))
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in kept} == {"vision_tower", "multi_modal_projector"}


def test_the_optimizer_is_the_recipes(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    two = seen_training(
        tuning(shelf, pretrained, tmp_path / "run", *UNUSUAL, "engine.zero_stage=1", "epochs=1")
    )
    roles = {id(parameter): name.split(".")[2] for name, parameter in two.module.named_parameters()}
    for name, group in two.groups.items():
        assert (*group["betas"], group["eps"]) == (0.8, 0.95, 1e-6)
        assert group["weight_decay"] == (0.0 if name.endswith("/no_decay") else 0.3)
        projector = {roles[parameter] == "multi_modal_projector" for parameter in group["params"]}
        assert projector == {name.startswith("projector")}
    assert two.engine.gradient_clipping() == 0.4 and two.engine.zero_optimization_stage() == 1
    assert two.engine.gradient_accumulation_steps() == 2
    for step, rates in enumerate(two.rates):
        for name, rate in rates.items():
            peak = 5e-3 if name.startswith("projector") else 2e-3
            assert rate == pytest.approx(cosine(step, peak, 1e-4, 1, 3)), (step, name)


@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast", "bf16"])
def test_products_run_in_the_precision_of_the_recipe(
    precision: str, shelf: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tower, training and held-out answers alike; autocast keeps float32 parameters."""
    kinds, read = set(), assemble.read_features

    def note(*arguments: Any) -> Any:
        features = read(*arguments)
        if features is not None:
            kinds.add(features.dtype)
        return features

    monkeypatch.setattr(assemble, "read_features", note)
    held_out = f"evaluation.source={{annotations: {shelf / 'captions.json'}, images: {shelf / 'images'}}}"
    precise = (f"engine.precision={precision}", "engine.zero_stage=2", "epochs=1", held_out)
    seen = seen_training(tuning(shelf, pretrained, tmp_path / "run", *precise))
    expected = torch.float32 if precision == "fp32" else torch.bfloat16
    for learning in (True, False):
        assert seen.dtype("", learning) == {expected}, learning
    weights = torch.bfloat16 if precision == "bf16" else torch.float32
    assert {parameter.dtype for parameter in seen.module.parameters()} == {weights}
    if precision != "bf16_autocast":  # whose features leave through a float32 norm or a sum
        assert kinds == {expected}


@pytest.mark.parametrize("again", [True, False])
def test_layers_are_computed_again_where_the_recipe_asks(
    again: bool, shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    asked = (f"engine.activation_checkpointing={str(again).lower()}", "engine.zero_stage=2", "epochs=1")
    seen = seen_training(tuning(shelf, pretrained, tmp_path / "run", *asked))
    assert seen.micro_steps == 6 and len(seen.passes) == 2  # layers of the language model
    assert set(seen.passes.values()) == {12 if again else 6}, seen.passes
    assert not again or seen.reentrant == {False}


def test_adapters_are_the_recipes(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}
    start = assemble.start_language_side

    def keep(side: Any, *rest: Any) -> Any:
        before.update(copy.deepcopy(side.state_dict()))
        return start(side, *rest)

    lora = ("model.lora={rank: 3, alpha: 12, dropout: 0.25}", "engine.zero_stage=2", "epochs=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "start_language_side", keep)
        seen = seen_training(tuning(shelf, pretrained, tmp_path / "run", *lora))
    adapted = [module for module in seen.module.modules() if hasattr(module, "lora_A") and module.lora_A]
    linear = [name for name in before if name.endswith("base_layer.weight")]
    assert len(adapted) == len(linear) == 2 * 7  # every matrix of both layers
    for module in adapted:
        assert module.r["default"] == 3 and module.scaling["default"] == 4.0
        assert module.lora_dropout["default"].p == 0.25
    after = seen.module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == seen.learned()
    assert all(".lora_" in name or ".multi_modal_projector." in name for name in moved)
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


def test_muon_takes_the_matrices(shelf: Path, pretrained: Path, tmp_path: Path) -> None:
    muon = ("optimizer.muon={lr: 0.02, momentum: 0.8}", "optimizer.adamw.max_grad_norm=null")
    seen = seen_training(
        tuning(shelf, pretrained, tmp_path / "run", *muon, "engine.zero_stage=2", "epochs=1")
    )
    shapes = {id(parameter): parameter.ndim for parameter in seen.module.parameters()}
    for name, group in seen.groups.items():
        assert group["use_muon"] is name.endswith("/muon")
        if group["use_muon"]:
            assert group["momentum"] == 0.8 and {shapes[parameter] for parameter in group["params"]} == {2}
    for step, rates in enumerate(seen.rates):
        for name, rate in rates.items():
            peak = 0.02 if name.endswith("/muon") else 2e-3
            assert rate == pytest.approx(cosine(step, peak, 0.0, 1, 3)), (step, name)


def test_sources_of_several_kinds_come_by_their_weights(
    shelf: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Half of a file in each epoch and the other half in the next; a set of shards twice in each."""
    with tarfile.open(tmp_path / "talks.tar", "w") as tar:
        for number, record in enumerate(json.loads((shelf / "captions.json").read_text())[:5]):
            said = tmp_path / "0.json"
            said.write_text(json.dumps(record))
            tar.add(said, f"{number}.json")
            tar.add(shelf / "images" / record["image"], f"{number}.png")
    file = f"{{annotations: {shelf / 'conversations.json'}, images: {shelf / 'images'}, weight: 0.5}}"
    shards = f"{{kind: shards, annotations: {tmp_path / 'talks.tar'}, weight: 2.0}}"
    with recorded() as steps:
        train(
            tuning(
                shelf, pretrained, tmp_path / "run", f"data.sources=[{file}, {shards}]", "engine.zero_stage=1"
            )
        )
    rows = [tuple(row.tolist()) for step in steps for batch in step for row in batch["input_ids"]]
    assert len(rows) == 2 * (12 // 2 + 5 * 2)
    assert not any(batch["skipped"] for step in steps for batch in step)
    pictures = sum(len(batch["pixel_values"]) for step in steps for batch in step)
    assert pictures == 8 + 2 * 5 * 2  # of the file, whose last four samples have none; of the shards
