"""Every number of every recipe has a range: what is outside is one line that names the field."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from itertools import product
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import tiny
import tiny_generator
import tiny_post_training

from common.config import MOST, ConfigError, plain, validate
from generation.config import GenerationConfig
from generation.sampling import Sampling
from post_training.config import PostTrainingConfig
from tokenizer.config import TokenizerConfig
from understanding.config import UnderstandingConfig

CONFIGS = [TokenizerConfig, UnderstandingConfig, GenerationConfig, PostTrainingConfig]
ODD = (0, -1, math.nan, math.inf, -math.inf, 10**30, 1e300, -(10**30), 5e-324)
CHOSEN = ("engine.zero_stage", "model.vision_select_layer")  # from a list
COMMON = "seed guard.max_share "
COMMON += "optimizer.adamw.weight_decay optimizer.adamw.betas.0 optimizer.adamw.betas.1 "
DATA = COMMON + "data.workers "
DRAWN = " {0}.sampling.cfg_scale {0}.sampling.cfg_interval.0 {0}.sampling.cfg_interval.1 "
ZEROS = {
    TokenizerConfig: DATA + "loss.reconstruction loss.codebook loss.commitment loss.perceptual loss.lecam "
    "loss.distillation loss.quantizer_distillation loss.discriminator loss.discriminator_update_start "
    "optimizer.end_lr optimizer.warmup_steps data.max_corrupt_share codebook_watch.min_usage "
    "codebook_watch.min_perplexity data.sources.0.max_damaged_shards",
    UnderstandingConfig: DATA + "data.max_skipped_share optimizer.end_lr optimizer.warmup_ratio "
    "optimizer.muon.momentum model.lora.dropout data.sources.0.max_damaged_shards "
    "evaluation.source.max_damaged_shards",
    GenerationConfig: DATA + "data.prompt_dropout data.max_corrupt_share optimizer.warmup_steps "
    "optimizer.muon.momentum data.sources.0.max_damaged_shards evaluation.source.max_damaged_shards"
    + DRAWN.format("samples"),
    PostTrainingConfig: COMMON
    + "optimizer.warmup_steps optimizer.muon.momentum rollouts.cfg_scale prompts.made.seed "
    "grpo.kl grpo.entropy rejection.threshold dpo.margin held_out.judge.weight "
    "rewards.0.weight rewards.1.weight" + DRAWN.format("samples") + DRAWN.format("held_out"),
}
"""The numbers that may be 0; tests/test_resumed_recipe.py trains with all of them at once."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[type, list[Any]]:
    """Recipes of each kind as plain data: together they have every section that may be null."""
    root = tmp_path_factory.mktemp("numbers")
    architecture: dict[str, Any] = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32}
    architecture |= {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
    (root / "llama.json").write_text(json.dumps(architecture))
    lora = ("model.train=[projector, language_model]", "model.lora={rank: 2, alpha: 4}")
    muon = ("optimizer.muon={lr: 0.02}", "optimizer.adamw.max_grad_norm=null")
    held_out = "evaluation.source={annotations: a.json, images: ., samples: 12}"
    understanding = [
        tiny.understanding_recipe(root, root / "run", *lora, "optimizer.projector_lr=1e-3", held_out),
        tiny.understanding_recipe(root, root / "run", *muon),
    ]
    generation = tiny_generator.recipe(root, root / "run", *muon, "samples.sampling.top_k=3")
    judged = tiny_post_training.held_out(root, "sampling: {top_k: 3}")
    two = "rewards=[{kind: rules, detector: world}, {kind: clip}]"
    made = ("prompts={made: {per_tag: 2}}", "grpo={clip_high: 0.3}", judged, *muon)
    post_training = [
        tiny_post_training.recipe(root, root / "run", *method, two)
        for method in (made, tiny_post_training.METHODS["rejection"], tiny_post_training.METHODS["dpo"])
    ]
    tokenizer = tiny.tokenizer_recipe(root, root / "run", *tiny.STAGE_2)
    return {
        TokenizerConfig: [plain(tokenizer)],
        UnderstandingConfig: list(map(plain, understanding)),
        GenerationConfig: [plain(generation)],
        PostTrainingConfig: list(map(plain, post_training)),
    }


def numbers(tree: Any, key: str = "") -> Iterator[str]:
    """Paths of all numbers in plain data."""
    items = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else ()
    for name, value in items:
        path = f"{key}.{name}".lstrip(".")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path
        yield from numbers(value, path)


def changed(tree: Any, path: str, value: Any) -> Any:
    """A copy of plain data with another value at a path."""
    name, _, rest = path.partition(".")
    copy = list(tree) if isinstance(tree, list) else dict(tree)
    place: Any = int(name) if isinstance(tree, list) else name
    copy[place] = changed(copy[place], rest, value) if rest else value
    return copy


@pytest.mark.parametrize("cls", CONFIGS)
def test_odd_numbers_are_taken_or_refused_in_one_line(cls: Any, trees: dict[type, Any]) -> None:
    zeros = set()
    for tree in trees[cls]:
        validate(cls, tree, "here")
        for path, value in product(numbers(tree), ODD):
            if path in CHOSEN:
                continue
            try:
                validate(cls, changed(tree, path, value), "here")
            except ConfigError as error:
                text = str(error)
                named = path.rstrip("0123456789.")
                assert "\n" not in text, text
                assert named in text or named.rpartition(".")[0] in text, (path, value, text)
            else:
                assert math.isfinite(value) and 0 <= value <= MOST, (path, value)
                zeros |= {path} if value == 0 else set()
    assert zeros == set(ZEROS[cls].split())


def hinted(cls: type, seen: set[type]) -> Iterator[tuple[type, str, Any]]:
    """Each field of a config and of those in it, with its annotation."""
    if cls in seen:
        return
    seen.add(cls)
    for name, hint in get_type_hints(cls, include_extras=True).items():
        yield cls, name, hint
        for part in (hint, *get_args(hint), *(inner for arg in get_args(hint) for inner in get_args(arg))):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from hinted(part, seen)


def bare_numbers(hint: Any) -> bool:
    """Whether a number may stand here that no annotation gives a range."""
    if hasattr(hint, "__metadata__"):
        return False
    return hint in (int, float) or (get_origin(hint) is not None and any(map(bare_numbers, get_args(hint))))


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_number_has_a_range(cls: type) -> None:
    bare = [f"{owner.__name__}.{name}" for owner, name, hint in hinted(cls, set()) if bare_numbers(hint)]
    # `Sampling` is handed around by itself and says its own ranges, which the test above tries.
    assert [field for field in bare if not field.startswith(f"{Sampling.__name__}.")] == []
