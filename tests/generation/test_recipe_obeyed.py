"""What the fields of a recipe do to a run, asserted where they act: against plain torch, and seen from inside."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_generator
import torch
import torch.nn.functional as F
from plain_torch import PlainAdamW, cosine
from watched import Engine, watched

from common.models.vqrae import VQRAE
from generation import assemble, dataset
from generation.model_folder import load_generator
from generation.train import train

UNUSUAL = (
    "optimizer.adamw={betas: [0.8, 0.95], weight_decay: 0.3, eps: 1e-6, max_grad_norm: 0.4}",
    "optimizer.lr=3e-3",
    "optimizer.warmup_steps=3",
    "engine.zero_stage=2",
    "model.new_embeddings=codebook",
    "seed=3",
)
QUIET = (
    "samples.prompts=[]",
    "evaluation.source=null",
    "logging={log_every: 1, picture_every: 9, evaluate_every: 9, writers: []}",
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("generation"))


class Seen:
    """A run: its engine, its micro-batches, and the model that it started from."""

    def __init__(self, config: Any) -> None:
        self.batches: list[dataset.Batch] = []
        training_batches, start = dataset.training_batches, assemble.start_generator

        def record(*arguments: Any) -> Iterator[dataset.Batch]:
            for batch in training_batches(*arguments):
                self.batches.append(batch)
                yield batch

        def keep(model: Any, config: Any) -> Any:
            self.before = copy.deepcopy(model.language_model)
            return start(model, config)

        with watched() as engines, pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataset, "training_batches", record)
            patch.setattr(assemble, "start_generator", keep)
            train(config)
        self.engine: Engine
        (self.engine,) = engines
        self.run = Path(config.output)
        self.trained = load_generator(str(self.run / "model"))

    def lines(self) -> list[dict[str, Any]]:
        read = map(json.loads, (self.run / "metrics.jsonl").read_text().splitlines())
        return [line for line in read if line["kind"] == "train"]


@pytest.mark.parametrize(
    ("schedule", "over"), [("constant", "codes"), ("cosine", "codes"), ("constant", "full")]
)
def test_training_equals_plain_torch(schedule: str, over: str, shelf: Path, tmp_path: Path) -> None:
    """The library's model with its whole head, under an optimizer that knows nothing of ours."""
    stated = (f"optimizer.schedule={schedule}", f"loss_vocabulary={over}", "steps=7")
    seen = Seen(tiny_generator.recipe(shelf, tmp_path / "run", *UNUSUAL, *QUIET, *stated))
    assert seen.engine.micro_steps == 14

    def constant(step: int) -> float:
        return 3e-3 * min(1.0, step / 3)

    def falling(step: int) -> float:
        return cosine(step, 3e-3, 0.0, 3, 7)

    model, words = seen.before.train(), seen.trained.vocabulary
    rate: Callable[[int], float] = constant if schedule == "constant" else falling
    ours = PlainAdamW([(model, rate)])
    for step in range(7):
        assert list(seen.engine.rates[step].values()) == pytest.approx([rate(step)] * 2)
        losses = []
        for batch in seen.batches[2 * step : 2 * step + 2]:
            rows = model(batch["input_ids"]).logits.flatten(0, 1)[batch["predictors"]]
            targets = batch["targets"]
            if over == "codes":
                rows = rows[:, words.first_code :]
            else:
                targets = targets + words.first_code
            losses.append(F.cross_entropy(rows, targets))
        loss = torch.stack(losses).mean()
        loss.backward()
        ours.step()
        assert seen.lines()[step]["loss"] == pytest.approx(float(loss), rel=1e-4)
    for name, tensor in seen.trained.model.state_dict().items():
        torch.testing.assert_close(
            tensor, model.state_dict()[name], atol=5e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_what_is_learned_are_the_codes_of_the_recipes_tokenizer(shelf: Path, tmp_path: Path) -> None:
    """In the stream's order, behind their captions, and with the VQRAE as it was, which the result brings along."""
    seen = Seen(tiny_generator.recipe(shelf, tmp_path / "run", *QUIET, "data.prompt_dropout=0.0"))
    vqrae = VQRAE.from_pretrained(shelf / "vqrae")
    from common.data.images import to_float
    from common.data.stream import ImageStream

    config = tiny_generator.recipe(shelf, tmp_path)
    stream = ImageStream(config.data, config.seed)
    for number, batch in enumerate(seen.batches[:12]):
        drawn = [stream[2 * number + place] for place in range(2)]
        codes = vqrae.encode(to_float(torch.stack([sample["pixels"] for sample in drawn]))).codes
        assert torch.equal(batch["targets"], codes.flatten())
        for row, sample in zip(batch["input_ids"], drawn, strict=True):
            said = seen.trained.text_tokenizer.decode(row, skip_special_tokens=True)
            assert said.strip().endswith(str(sample["caption"])), (said, sample["caption"])
    for name, tensor in seen.trained.vqrae.state_dict().items():
        assert torch.equal(tensor, vqrae.state_dict()[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast", "bf16"])
def test_precision_and_recomputation_are_the_recipes(precision: str, shelf: Path, tmp_path: Path) -> None:
    again = precision == "bf16_autocast"
    engine = (
        f"engine={{zero_stage: 1, precision: {precision}, activation_checkpointing: {str(again).lower()}}}"
    )
    seen = Seen(tiny_generator.recipe(shelf, tmp_path / "run", *QUIET, engine, "steps=2")).engine
    assert seen.dtype("") == {torch.float32 if precision == "fp32" else torch.bfloat16}
    weights = torch.bfloat16 if precision == "bf16" else torch.float32
    assert {parameter.dtype for parameter in seen.module.parameters()} == {weights}
    assert seen.micro_steps == 4 and len(seen.passes) == 2
    assert set(seen.passes.values()) == {8 if again else 4}, seen.passes
    assert not again or seen.reentrant == {False}


def test_the_tokenizer_has_a_precision_of_its_own(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And learns nothing: it is asked in eval mode, without gradients."""
    asked: list[tuple[torch.dtype, bool, bool]] = []
    from common.models.vision_encoder import VisionEncoder

    forward = VisionEncoder.forward

    def note(self: Any, *arguments: Any) -> Any:
        mixed = torch.is_autocast_enabled("cpu")
        learned = torch.is_grad_enabled() or any(parameter.requires_grad for parameter in self.parameters())
        asked.append((torch.bfloat16 if mixed else torch.float32, self.training, learned))
        return forward(self, *arguments)

    monkeypatch.setattr(VisionEncoder, "forward", note)
    for precision, expected in (("fp32", torch.float32), ("bf16_autocast", torch.bfloat16)):
        del asked[:]
        mixed = (f"model.tokenizer.precision={precision}", "steps=1")
        train(tiny_generator.recipe(shelf, tmp_path / precision, *QUIET, *mixed))
        assert set(asked) == {(expected, False, False)}


def test_muon_and_the_optimizer(shelf: Path, tmp_path: Path) -> None:
    plain = Seen(tiny_generator.recipe(shelf, tmp_path / "plain", *UNUSUAL, *QUIET, "steps=1")).engine
    for name, group in plain.groups.items():
        assert (*group["betas"], group["eps"]) == (0.8, 0.95, 1e-6)
        assert group["weight_decay"] == (0.0 if name.endswith("/no_decay") else 0.3)
    assert plain.engine.gradient_clipping() == 0.4 and plain.engine.zero_optimization_stage() == 2
    muon = ("optimizer.muon={lr: 0.02, momentum: 0.8}", "optimizer.adamw.max_grad_norm=null", "steps=4")
    seen = Seen(tiny_generator.recipe(shelf, tmp_path / "muon", *QUIET, *muon)).engine
    assert {name: group["use_muon"] for name, group in seen.groups.items()} == {
        "generator/muon": True,
        "generator/no_decay": False,
    }
    assert seen.groups["generator/muon"]["momentum"] == 0.8
    for step, rates in enumerate(seen.rates):
        for name, rate in rates.items():
            peak = 0.02 if name.endswith("/muon") else 1e-2
            assert rate == pytest.approx(peak * min(1.0, step / 2)), (step, name)


def test_going_on_from_a_former_generator(shelf: Path, tmp_path: Path) -> None:
    """`init_from` brings its weights: new rows and the language model are not drawn again."""
    first = Seen(tiny_generator.recipe(shelf, tmp_path / "one", *QUIET, "steps=2"))
    later = Seen(
        tiny_generator.recipe(
            shelf, tmp_path / "two", *QUIET, f"init_from={first.run / 'model'}", "steps=1", "seed=9"
        )
    )
    for name, tensor in first.trained.model.state_dict().items():
        assert torch.equal(tensor, later.before.state_dict()[name]), name
