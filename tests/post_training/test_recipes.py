"""The recipes load, print and plan without network, and agree with those of the generator that they go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import dump_config, load_config
from post_training.config import PostTrainingConfig
from post_training.dry_run import plan
from post_training.methods.opening import method_of

RECIPES = Path(__file__).parents[2] / "post_training" / "recipes"
GENERATORS = Path(__file__).parents[2] / "generation" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_prints_and_plans(path: Path, tmp_path: Path) -> None:
    config = load_config(PostTrainingConfig, path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_config(config))
    assert load_config(PostTrainingConfig, printed) == config
    page = plan(config, 2 if path.stem.startswith("demo") else 8)
    assert "rollouts         " in page and "<- this recipe" in page and f"method {config.method}" in page
    assert path.stem.endswith(config.method)
    assert ("of the reference" in page) == method_of(config).refers


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_generator_is_the_one_of_its_own_recipe(path: Path) -> None:
    ours: Any = yaml.safe_load(path.read_text())
    theirs: Any = yaml.safe_load(
        (GENERATORS / f"{'demo' if 'demo' in path.stem else 'qwen3_0_6b'}.yaml").read_text()
    )
    model, trained = ours["model"], theirs["model"]
    assert ours["init_from"] == f"{theirs['output']}/model"
    assert model["tokenizer"] == trained["tokenizer"]
    assert model["architecture"] == trained["language_model"]["architecture"]
    assert model["text_vocabulary"] == trained["language_model"]["text_vocabulary"]
    for key in ("image_size", "max_length"):
        assert model[key] == theirs["data"][key]
