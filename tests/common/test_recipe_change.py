"""What a resumed run may change: every field has a class, and the class is what happens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import tiny
import yaml

from common.config import configclass, dump_config, plain
from common.errors import UserError
from common.training.command import parse_arguments
from common.training.recipe_change import (
    Rules,
    check_recipe,
    check_steps,
    class_of,
    differences,
    keep_recipe,
)
from generation.config import ON_RESUME as GENERATION
from generation.config import GenerationConfig
from post_training.config import ON_RESUME as POST_TRAINING
from post_training.config import PostTrainingConfig
from tokenizer.config import ON_RESUME as TOKENIZER
from tokenizer.config import TokenizerConfig
from understanding.config import ON_RESUME as UNDERSTANDING
from understanding.config import UnderstandingConfig

RECIPES = [
    (TokenizerConfig, TOKENIZER),
    (UnderstandingConfig, UNDERSTANDING),
    (GenerationConfig, GENERATION),
    (PostTrainingConfig, POST_TRAINING),
]


def fields(cls: type, key: str = "") -> Iterator[str]:
    """Paths of all fields that a recipe may have, sections left out unless they may be null."""
    for name, hint in get_type_hints(cls).items():
        path = f"{key}.{name}".lstrip(".")
        inner = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
        if len(inner) != 1 or type(None) in get_args(hint):
            yield path
        for part in inner:
            yield from fields(part, path)


@pytest.mark.parametrize(("cls", "rules"), RECIPES)
def test_every_field_has_a_class_and_every_class_a_field(cls: type, rules: Rules) -> None:
    paths = list(fields(cls))
    assert len(paths) > 40
    for path in paths:
        class_of(path, rules)
    for rule in rules:
        assert any(f"{path}.".startswith(f"{rule}.") for path in paths), f"{rule}: no such field"
    with pytest.raises(KeyError):
        class_of("optimizer.newcomer", rules)


@configclass
class Part:
    size: int
    rate: float = 1.0


@configclass
class Recipe:
    seed: int
    workers: int
    steps: int
    weight: float
    parts: tuple[Part, ...]
    shape: dict[str, int]
    muon: Part | None = None


RULES: Rules = {
    "seed": "refused",
    "workers": "free",
    "steps": "applied",
    "weight": "switch",
    "parts": "refused",
    "parts.rate": "applied",
    "shape": "refused",
    "muon": "switch",
    "muon.rate": "applied",
}
BASE: dict[str, Any] = {
    "seed": 1,
    "workers": 2,
    "steps": 3,
    "weight": 0.5,
    "parts": (Part(size=1), Part(size=2)),
    "shape": {"width": 4},
    "muon": Part(size=1),
}


def compared(tmp_path: Path, *allowed: str, before: dict[str, Any] | None = None, **now: Any) -> list[str]:
    keep_recipe(tmp_path, Recipe(**{**BASE, **(before or {})}), 0, 1)
    lines = check_recipe(tmp_path, Recipe(**{**BASE, **now}), RULES, allowed)
    assert all(line.startswith(f"{tmp_path}: recipe: ") for line in lines)
    return [line.removeprefix(f"{tmp_path}: recipe: ") for line in lines]


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ({}, []),
        ({"workers": 9}, []),
        ({"steps": 9, "workers": 9}, ["steps: 3 -> 9"]),
        ({"weight": 0.25}, ["weight: 0.5 -> 0.25"]),
        ({"parts": (Part(size=1), Part(size=2, rate=0.5))}, ["parts.1.rate: 1.0 -> 0.5"]),
        ({"muon": Part(size=1, rate=2.0)}, ["muon.rate: 1.0 -> 2.0"]),
    ],
)
def test_what_may_change_is_said(now: dict[str, Any], lines: list[str], tmp_path: Path) -> None:
    assert compared(tmp_path, **now) == lines


@pytest.mark.parametrize(
    ("now", "keys", "said"),
    [
        ({"seed": 2}, "seed", "seed: 1 -> 2"),
        ({"weight": 0.0}, "weight", "weight: 0.5 -> 0.0"),
        ({"muon": None}, "muon", "muon: {'size': 1, 'rate': 1.0} -> null"),
        ({"parts": (Part(size=1),)}, "parts", "parts: ["),
        ({"parts": (Part(size=1), Part(size=3))}, "parts.1.size", "parts.1.size: 2 -> 3"),
        ({"shape": {"width": 4, "depth": 2}}, "shape.depth", "shape.depth: (absent) -> 2"),
        ({"shape": {}}, "shape.width", "shape.width: 4 -> (absent)"),
        ({"seed": 2, "muon": None}, "seed,muon", "seed: 1 -> 2; muon: "),
    ],
)
def test_what_may_not_is_refused_unless_it_is_named(
    now: dict[str, Any], keys: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        compared(tmp_path, **now)
    text = str(error.value)
    assert said in text and text.endswith(f"--allow-change {keys}") and "\n" not in text
    lines = compared(tmp_path, *keys.split(","), **now)
    assert len(lines) == len(keys.split(",")) and all(line.endswith(", as allowed") for line in lines)
    sections = {key.split(".")[0] for key in keys.split(",")}
    assert compared(tmp_path, *sections, **now) == lines


def test_a_switch_is_refused_in_both_directions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("weight: 0.0 -> 0.5")):
        compared(tmp_path, before={"weight": 0.0})
    with pytest.raises(UserError, match="muon: null -> "):
        compared(tmp_path, before={"muon": None})


def test_allowing_what_is_no_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--allow-change sead: no such field"):
        compared(tmp_path, "sead")
    with pytest.raises(UserError, match="--allow-change see: no such field"):
        compared(tmp_path, "see", seed=2)


def test_a_recipe_of_an_older_or_newer_version(tmp_path: Path) -> None:
    stored = plain(Recipe(**BASE))
    del stored["muon"], stored["parts"][0]["rate"]
    stored["gone"] = 3
    assert list(differences(stored, Recipe(**{**BASE, "muon": None}))) == []
    (found,) = differences(stored, Recipe(**BASE))
    assert str(found) == "muon: (absent) -> {'size': 1, 'rate': 1.0}"


def test_a_recipe_that_is_gone_or_damaged(tmp_path: Path) -> None:
    (line,) = check_recipe(tmp_path, Recipe(**BASE), RULES, ())
    assert line.startswith("warning: ") and "config.yaml: absent" in line
    for damaged in (b"", b"- 1", b"seed: [", b"\xff"):
        (tmp_path / "config.yaml").write_bytes(damaged)
        with pytest.raises(UserError, match=r"config.yaml: "):
            check_recipe(tmp_path, Recipe(**BASE), RULES, ())


def test_the_recipe_of_the_checkpoint_counts_more_than_the_file(tmp_path: Path) -> None:
    config = Recipe(**{**BASE, "seed": 2})
    keep_recipe(tmp_path, config, 0, 1)
    with pytest.raises(UserError, match="seed: 1 -> 2"):
        check_recipe(tmp_path, config, RULES, (), {"step": 3, "recipe": plain(Recipe(**BASE))})


def test_every_recipe_stays_beside_the_run_once(tmp_path: Path) -> None:
    one, other = Recipe(**BASE), Recipe(**{**BASE, "steps": 9})
    for step, config in enumerate((one, one, other, other, one)):
        keep_recipe(tmp_path, config, step, 2)
        assert (tmp_path / "config.yaml").read_text() == dump_config(config)
    kept = sorted((tmp_path / "recipes").iterdir())
    assert [path.name for path in kept] == ["0001.yaml", "0002.yaml", "0003.yaml"]
    heads = [path.read_text().splitlines()[0] for path in kept]
    assert [re.sub(r"20\d\d-.*Z", "NOW", head) for head in heads] == [
        f"# from step {step} on, NOW, 2 ranks" for step in (0, 2, 4)
    ]
    assert [yaml.safe_load(path.read_text()) for path in kept] == [plain(c) for c in (one, other, one)]


def test_fewer_steps_than_were_done_are_refused(tmp_path: Path) -> None:
    check_steps(tmp_path, "steps", 6, 6)
    with pytest.raises(UserError, match="steps: the recipe asks for 5 steps, and the run has done 6"):
        check_steps(tmp_path, "steps", 5, 6)


def test_the_command_takes_keys_with_commas_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["x", "--allow-change", "seed, batch.global_size", "--allow-change", "ema", "steps=3"]
    monkeypatch.setattr("sys.argv", words)
    arguments = parse_arguments("", Path("recipe.yaml"))
    assert arguments.allow_change == ["seed", "batch.global_size", "ema"]
    assert arguments.overrides == ["steps=3"]


def test_the_classes_of_fields_that_matter(tmp_path: Path) -> None:
    """On a recipe of the tokenizer."""
    base = tiny.tokenizer_recipe(tmp_path, tmp_path / "run", *tiny.STAGE_2)
    keep_recipe(tmp_path, base, 0, 1)
    expected = {
        "free": ["logging.log_every=9", "data.workers=3", "evaluation.limit=2", "batch.micro_size=1"],
        "applied": ["steps=9", "optimizer.decoder_lr=0.5", "loss.perceptual=0.0", "optimizer.warmup_steps=1"],
        "refused": ["seed=1", "data.sources.0.path=x", "batch.global_size=8", "ema=false", "init_from=x"],
    }
    expected["refused"] += ["model.codebook_size=16", "loss.discriminator=0.0", "data.crop=center"]
    for kind, overrides in expected.items():
        for override in overrides:
            config = tiny.tokenizer_recipe(tmp_path, tmp_path / "run", *tiny.STAGE_2, override)
            key = override.split("=")[0]
            if kind == "refused":
                with pytest.raises(UserError, match=re.escape(f"--allow-change {key}")):
                    check_recipe(tmp_path, config, TOKENIZER, ())
            else:
                lines = check_recipe(tmp_path, config, TOKENIZER, ())
                assert [key in line for line in lines] == [True] * (kind == "applied"), override
