"""The smallest recipe and pictures that go through the whole code path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.config import _apply_override, validate
from tokenizer.config import TokenizerConfig

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
INTERNVIT = {
    "model_type": "internvl_vision",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "attention_bias": True,
}


def write_pictures(folder: Path, count: int = 12, size: int = 20, seed: int = 0) -> Path:
    """Smooth random pictures, so that there is something to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size + 4), Image.Resampling.BILINEAR).save(
            folder / f"{index:03d}.png"
        )
    return folder


def tokenizer_recipe(pictures: Path, output: Path, *overrides: str) -> TokenizerConfig:
    """Stage 1 on `pictures`; `overrides` as on the command line."""
    tree: dict[str, Any] = {
        "output": str(output),
        "seed": 0,
        "init_from": None,
        "steps": 6,
        "ema": False,
        "model": {
            "encoder": {"source": None, "architecture": dict(SIGLIP)},
            "freeze_encoder": True,
            "codebook_size": 32,
            "codebook_dim": 16,
            "output_patch_size": 4,
            "codebook_start": {"method": "kmeans", "images": 8},
        },
        "data": {"image_size": 16, "sources": [{"kind": "folder", "path": str(pictures)}], "workers": 0},
        "batch": {"global_size": 4, "micro_size": 2},
        "loss": {
            "perceptual": 0.1,
            "perceptual_model": {"preset": "random_features"},
            "distillation": 0.0,
            "discriminator": 0.0,
        },
        "optimizer": {
            "encoder_lr": None,
            "decoder_lr": 1e-3,
            "discriminator_lr": None,
            "end_lr": 1e-4,
            "warmup_steps": 2,
            "adamw": {"betas": [0.9, 0.999], "weight_decay": 1e-4, "max_grad_norm": 1.0},
        },
        "engine": {"zero_stage": 1, "precision": "fp32"},
        "logging": {"log_every": 2, "picture_every": 3, "evaluate_every": 3, "writers": []},
        "checkpoint": {"save_every": 3, "keep": 2},
        "evaluation": {"images": str(pictures), "limit": 5},
    }
    for override in overrides:
        _apply_override(tree, override)
    return validate(TokenizerConfig, tree, where="tiny")


STAGE_2 = (
    "model.freeze_encoder=false",
    "optimizer.encoder_lr=1e-4",
    "optimizer.discriminator_lr=1e-3",
    "loss.distillation=1.0",
    "loss.discriminator=0.1",
    "loss.discriminator_model={width: 8, stages: 1, pool: 2, norm_groups: 4}",
    "loss.discriminator_start=2",
    "loss.discriminator_update_start=1",
    "ema=true",
)
