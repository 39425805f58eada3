"""The recipe against the paper's Table 9, value by value; and all of them load, print and plan without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config import dump_config, load_config
from generation.config import GenerationConfig
from generation.dry_run import plan

RECIPES = Path(__file__).parents[2] / "generation" / "recipes"

TABLE_9: dict[str, Any] = {
    "model.language_model.source": "Qwen/Qwen3-0.6B",
    "model.tokenizer.encoder.model_type": "internvl_vision",
    "model.tokenizer.codebook_size": 16384,
    "model.tokenizer.codebook_dim": 1536,
    "model.tokenizer.quantizer_layers": None,
    "data.image_size": 512,
    "data.crop": "center",
    "data.max_length": 1536,
    "engine.zero_stage": 1,
    "engine.precision": "bf16",
    "optimizer.schedule": "constant",
    "optimizer.lr": 1e-4,
    "optimizer.warmup_steps": 4000,
    "optimizer.adamw.weight_decay": 0.0,
    "optimizer.adamw.betas": (0.9, 0.999),
    "optimizer.adamw.eps": 1e-15,
    "optimizer.adamw.max_grad_norm": 1.0,
    "batch.global_size": 512,
    "loss_vocabulary": "codes",  # "next-token loss on visual tokens only" (decision 14)
}
# Where the table is silent, or cannot be followed to the letter.
OURS: dict[str, Any] = {
    "steps": 225_000,  # the table names none
    "data.prompt_dropout": 0.1,  # decision 6
}


def get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


@pytest.fixture(scope="module")
def paper() -> GenerationConfig:
    return load_config(GenerationConfig, RECIPES / "qwen3_0_6b.yaml")


@pytest.mark.parametrize(("key", "value"), [*TABLE_9.items(), *OURS.items()])
def test_table_9(key: str, value: Any, paper: GenerationConfig) -> None:
    assert get(paper, key) == value


def test_a_sequence_is_1536_tokens(paper: GenerationConfig) -> None:
    assert (paper.grid, paper.image_tokens, paper.text_room) == ((32, 32), 1024, 510)
    page = plan(paper, 8)
    assert "32 x 32 = 1024 image tokens" in page
    assert "1536 tokens: at most 510 text tokens, 2 marks, 1024 image tokens" in page
    assert "512 = 16 micro x 4 accumulation x 8 ranks" in page
    # Qwen3-0.6B has 596.0 M parameters with 151,936 rows of 1024; ours has 168,055 rows.
    assert "trained          612.6 M parameters" in page


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_prints_and_plans(path: Path, tmp_path: Path) -> None:
    config = load_config(GenerationConfig, path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_config(config))
    assert load_config(GenerationConfig, printed) == config
    page = plan(config, 1 if path.stem.startswith("demo") else 8)
    assert f"global batch     {config.batch.global_size} = " in page and "<- this recipe" in page


def test_the_recipe_reads_what_the_tokenizer_s_recipe_leaves() -> None:
    """The two jobs do not import each other; their recipes have to agree all the same."""
    import yaml

    theirs = yaml.safe_load(
        (RECIPES.parents[1] / "tokenizer/recipes/internvit_300m_448_stage2.yaml").read_text()
    )
    ours = yaml.safe_load((RECIPES / "qwen3_0_6b.yaml").read_text())
    reference = ours["model"]["tokenizer"]
    assert reference["source"] == f"{theirs['output']}/model"
    assert reference["encoder"] == theirs["model"]["encoder"]["architecture"]
    for key in ("codebook_size", "codebook_dim", "output_patch_size"):
        assert reference[key] == theirs["model"][key]
    assert ours["data"]["image_size"] == theirs["data"]["image_size"]
