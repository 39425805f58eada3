"""Engines are in train mode from the first step on, however a run begins: checkpointed layers are recomputed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
import tiny_post_training
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP
from transformers.models.siglip.modeling_siglip import SiglipMLP

from common.training.guard import Guard
from generation import train as generation
from post_training import train as post_training
from tokenizer import train as tokenizer
from understanding import train as understanding

pytestmark = pytest.mark.slow

Recipe = Callable[..., Any]
CHECKPOINTED = "engine.activation_checkpointing=true"
QUIET = (
    "logging.picture_every=1",
    "logging.evaluate_every=1",
    "logging.log_every=1",
    "checkpoint.save_every=1",
)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    """Of each job: (output, *overrides) -> config."""
    shelf = tmp_path_factory.mktemp("shelf")
    pictures = tiny.write_pictures(shelf / "pictures")
    generator_shelf = tiny_generator.write_shelf(shelf / "generation")
    drawn_shelf = tiny_post_training.write_shelf(shelf / "post_training")
    language_shelf = tiny.write_understanding_shelf(shelf / "understanding")
    return {
        "tokenizer": lambda *rest: tiny.tokenizer_recipe(pictures, *rest),
        "generation": lambda *rest: tiny_generator.recipe(generator_shelf, *rest),
        "understanding": lambda *rest: tiny.understanding_recipe(language_shelf, *rest),
        "post_training": lambda *rest: tiny_post_training.recipe(drawn_shelf, *rest),
    }


@contextlib.contextmanager
def first_step(layer: type, stop: bool) -> Iterator[Counter[int]]:
    """Calls of each `layer` in the first step of a run, which ends there if `stop`.

    It is a part of what is checkpointed: a layer whose own forward is replaced transformers does not checkpoint.
    """
    calls: Counter[int] = Counter()
    forward, start, end = layer.forward, Guard.start_step, Guard.end_step
    inside = []

    def counted(self: Any, *inputs: Any, **named: Any) -> Any:
        calls[id(self)] += inside == [1]
        return forward(self, *inputs, **named)

    def starts(self: Guard, step: int) -> None:
        inside.append(1)
        start(self, step)

    def ends(self: Guard, *inputs: Any, **named: Any) -> bool:
        inside.append(1)
        if stop:
            raise KeyboardInterrupt
        return end(self, *inputs, **named)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(layer, "forward", counted)
        patch.setattr(Guard, "start_step", starts)
        patch.setattr(Guard, "end_step", ends)
        yield calls


# A layer that a gradient passes: forward and recomputation, in each of two micro-steps (four in post-training, whose
# sampler has layers of its own); another one: forward alone.
@pytest.mark.parametrize(
    ("job", "module", "layer", "began", "expected", "later"),
    [
        ("tokenizer", tokenizer, SiglipMLP, [], [2, 4], tiny.STAGE_2),
        ("generation", generation, Qwen3MLP, [], [4, 4], ()),
        ("understanding", understanding, LlamaMLP, ["engine.zero_stage=1"], [4, 4], ()),
        ("post_training", post_training, Qwen3MLP, [], [8, 8], ()),
    ],
)
def test_layers_are_recomputed_from_the_first_step(
    job: str,
    module: Any,
    layer: type,
    began: list[str],
    expected: list[int],
    later: tuple[str, ...],
    recipes: dict[str, Recipe],
    tmp_path: Path,
) -> None:
    def counts(output: Path, *overrides: str, stop: bool = True) -> list[int]:
        with first_step(layer, stop) as calls:
            module.train(recipes[job](output, CHECKPOINTED, *began, *overrides))
        return sorted(count for count in calls.values() if count)  # some are only measured with

    short = ["epochs=1"] if job == "understanding" else ["steps=2"]
    assert counts(tmp_path / "fresh", *QUIET, *short, stop=False) == expected
    # With longer schedules the finished run goes on; its pictures and evaluations were drawn before, in eval mode.
    long = ["epochs=2"] if job == "understanding" else ["steps=4"]
    assert counts(tmp_path / "fresh", *QUIET, *long) == expected
    from_former = (f"init_from={tmp_path / 'fresh' / 'model'}", *later)
    beside_teacher = [2, 4, 4] if job == "tokenizer" else expected
    assert counts(tmp_path / "second", *from_former) == beside_teacher
