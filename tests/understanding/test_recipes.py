"""The recipes against the paper's Table 8, value by value; and all of them load, print and plan without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config import dump_config, load_config
from understanding.config import UnderstandingConfig
from understanding.dry_run import plan

RECIPES = Path(__file__).parents[2] / "understanding" / "recipes"
PAPER = [f"vicuna_{size}_{pixels}" for size in ("7b", "13b") for pixels in (256, 512)]
OURS = ["qwen2_5_7b"]

# Table 8.
BOTH_STAGES: dict[str, Any] = {
    "model.projector": "mlp2x_gelu",
    "model.vision_select_layer": -1,
    "optimizer.end_lr": 0.0,  # a cosine
    "optimizer.warmup_ratio": 0.03,
    "optimizer.adamw.weight_decay": 0.0,
    "optimizer.adamw.betas": (0.9, 0.999),
    "optimizer.adamw.max_grad_norm": 1.0,
    "engine.precision": "bf16",
    "data.max_length": 2048,
}
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {
        "model.train": ("projector",),  # language model and ViT are frozen
        "engine.zero_stage": 2,
        "optimizer.lr": 1e-3,
        "batch.global_size": 256,
        "data.sources": 595_375,  # LLaVA-Pretrain-595K
    },
    "sft": {
        "model.train": ("projector", "language_model"),  # the ViT is frozen
        "engine.zero_stage": 3,
        "optimizer.lr": 2e-5,
        "batch.global_size": 128,
        "data.sources": 665_298,  # LLaVA-v1.5-mix-665K
    },
}
WIDTHS = {"7b": 4096, "13b": 5120}


def get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", PAPER + OURS)
def test_table_8(name: str, stage: str) -> None:
    config = load_config(UnderstandingConfig, RECIPES / f"{name}_{stage}.yaml")
    for key, value in {**BOTH_STAGES, **STAGES[stage]}.items():
        found = get(config, key)
        assert (found[0].samples if key == "data.sources" else found) == value, key
    assert config.model.lora is None  # the whole language model learns
    if name in PAPER:
        _, size, pixels = name.split("_")
        assert config.model.language_model.source == f"lmsys/vicuna-{size}-v1.5"
        assert config.model.language_model.architecture["hidden_size"] == WIDTHS[size]
        assert config.model.tower.architecture["image_size"] == int(pixels)
        assert config.model.tower.source == f"runs/siglip2_so400m_{pixels}_stage2/model"


@pytest.mark.parametrize("name", [*PAPER, *OURS, "demo"])
def test_the_stages_fit_together(name: str) -> None:
    one, two = (
        load_config(UnderstandingConfig, RECIPES / f"{name}_{stage}.yaml") for stage in ("pretrain", "sft")
    )
    assert two.init_from == f"{one.output}/model" and one.init_from is None
    assert one.model.tower == two.model.tower and one.model.language_model == two.model.language_model
    # LLaVA-1.5 cuts in pretraining and pads in fine-tuning; the demo's scenes are squares.
    fits = ("resize", "resize") if name == "demo" else ("crop", "pad")
    assert (one.model.image_fit, two.model.image_fit) == fits
    assert one.model.template == "plain" and two.model.template != "plain"


# scripts/v1_5/finetune_lora.sh of haotian-liu/LLaVA, and what its train.py takes where the script is silent.
LLAVA_LORA: dict[str, Any] = {
    "model.lora.rank": 128,  # lora_r
    "model.lora.alpha": 256,  # lora_alpha
    "model.lora.dropout": 0.05,
    "optimizer.lr": 2e-4,  # learning_rate
    "optimizer.projector_lr": 2e-5,  # mm_projector_lr
    "optimizer.warmup_ratio": 0.03,
    "optimizer.end_lr": 0.0,  # lr_scheduler_type cosine
    "optimizer.adamw.weight_decay": 0.0,
    "engine.zero_stage": 3,  # zero3.json
    "engine.precision": "bf16",
    "engine.activation_checkpointing": True,
    "data.max_length": 2048,  # model_max_length
    "data.group": "modality_length",
    "batch.global_size": 128,  # 16 a device, eight of them
    "batch.micro_size": 16,
    "model.image_fit": "pad",  # image_aspect_ratio
    "model.template": "vicuna_v1",  # version v1
    "epochs": 1,
}


def test_llavas_adapters() -> None:
    whole, adapters = (
        load_config(UnderstandingConfig, RECIPES / f"vicuna_7b_256_{name}.yaml")
        for name in ("sft", "sft_lora")
    )
    for key, value in LLAVA_LORA.items():
        assert get(adapters, key) == value, key
    assert adapters.init_from == whole.init_from and adapters.data == whole.data
    assert adapters.model.tower == whole.model.tower
    assert adapters.model.language_model == whole.model.language_model


# scripts/finetune_qlora.sh, which is of LLaVA's first version, and what its train.py takes where the script is silent;
# pictures, conversations and their order are LLaVA-1.5's.
LLAVA_QLORA: dict[str, Any] = {
    **LLAVA_LORA,
    "model.lora.bits": 4,  # bits; quant_type nf4 and double_quant are few_bits_config's
    "model.lora.rank": 64,  # lora_r
    "model.lora.alpha": 16,  # lora_alpha
    "optimizer.lr": 2e-5,  # learning_rate
    "optimizer.projector_lr": None,  # mm_projector_lr
    "engine.zero_stage": 2,  # zero2.json
}


def test_llavas_adapters_on_few_bits() -> None:
    whole, few = (
        load_config(UnderstandingConfig, RECIPES / f"vicuna_7b_256_{name}.yaml")
        for name in ("sft_lora", "sft_qlora")
    )
    for key, value in LLAVA_QLORA.items():
        assert get(few, key) == value, key
    assert few.init_from == whole.init_from and few.data == whole.data
    assert few.model.tower == whole.model.tower and few.model.language_model == whole.model.language_model
    assert whole.model.lora is not None and whole.model.lora.bits is None


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_prints_and_plans(path: Path, tmp_path: Path) -> None:
    config = load_config(UnderstandingConfig, path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_config(config))
    assert load_config(UnderstandingConfig, printed) == config
    gpus = 1 if path.stem.startswith("demo") else 8
    page = plan(config, gpus)
    assert f"global batch     {config.batch.global_size} = " in page and "<- this recipe" in page


def test_the_plan_of_vicuna_7b() -> None:
    """8 x 80 GB: LLaVA-1.5's own set-up."""
    page = plan(load_config(UnderstandingConfig, RECIPES / "vicuna_7b_256_sft.yaml"), 8)
    assert "128 = 16 micro x 1 accumulation x 8 ranks" in page
    assert "5,198 (665,298 samples x 1 epochs; 156 of warm-up)" in page
    # Vicuna-7B has 6,738.4 M parameters and grows by 64 rows of 4096, twice; the projector has two matrices.
    # The tower is SigLIP2-so400m without its pooling head, which nothing reads.
    projector = (1152 + 1) * 4096 + (4096 + 1) * 4096
    trained = 6_738_415_616 + 2 * 64 * 4096 + projector
    assert f"trained          {trained / 1e6:,.1f} M" in page and "the tower 412.6 M" in page
    sixteen = 2 * (trained + 412_649_712) / 2**30 + 14 * trained / 2**30  # bytes a parameter, replicated
    assert f"ZeRO-0         {sixteen:6.1f} GiB" in page
    shard = 16 * trained / 8 / 2**30 + 2 * 412_649_712 / 2**30
    assert f"ZeRO-3         {shard:6.1f} GiB  <- this recipe" in page and shard < 80


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_the_demo_can_be_served_on_a_cpu(stage: str) -> None:
    """vLLM's attention there takes heads of 32 and more."""
    stated = load_config(
        UnderstandingConfig, RECIPES / f"demo_{stage}.yaml"
    ).model.language_model.architecture
    assert stated["head_dim"] >= 32 and stated["num_attention_heads"] == 4
