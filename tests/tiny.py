"""The smallest recipes, models and pictures that go through the whole code path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.config import _apply_override, validate
from tokenizer.config import TokenizerConfig
from understanding.config import UnderstandingConfig

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


def write_conversations(folder: Path, count: int = 12, text_only: int = 4) -> Path:
    """LLaVA files in `folder`: captions.json, one turn each, and conversations.json, two turns each, whose last
    `text_only` have no picture."""
    pictures = count - text_only
    write_pictures(folder / "images", pictures)
    colors = ("red", "green", "blue", "yellow")
    captions, conversations = [], []
    for index in range(count):
        image = {"image": f"{index % pictures:03d}.png"}
        placeholder = "<image>\n" if index < pictures else ""
        texts = [
            placeholder + "What color is the large triangle?",
            colors[index % 4],
            "Describe it in one sentence." * (1 + index % 3),
            "There are three small circles." * (1 + index % 2),
        ]
        turns = _turns(texts)
        # Published files mix numbers and strings as ids.
        one = {"id": index, **image} if placeholder else {"id": str(index)}
        conversations.append({**one, "conversations": turns})
        captions.append({"id": index, **image, "conversations": _turns(["Describe.\n<image>", texts[3]])})
    (folder / "captions.json").write_text(json.dumps(captions))
    path = folder / "conversations.json"
    path.write_text(json.dumps(conversations))
    return path


def _turns(texts: list[str]) -> list[dict[str, str]]:
    roles = ("human", "gpt")
    return [{"from": roles[number % 2], "value": text} for number, text in enumerate(texts)]


def write_language_model(folder: Path, kind: str, seed: int = 0) -> dict[str, Any]:
    """A random language model of a family (llama, qwen2, qwen3) with its text tokenizer; its stated architecture."""
    import torch
    from text_tokenizers import llama_text_tokenizer, qwen_text_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    text_tokenizer = llama_text_tokenizer() if kind == "llama" else qwen_text_tokenizer()
    architecture = {
        "model_type": kind,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": len(text_tokenizer),
    }
    extra = {"head_dim": 8, "tie_word_embeddings": True} if kind == "qwen3" else {}
    fields = {key: value for key, value in {**architecture, **extra}.items() if key != "model_type"}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
    model.save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    return {**architecture, **extra}


def understanding_recipe(
    shelf: Path, output: Path, *overrides: str, kind: str = "llama"
) -> UnderstandingConfig:
    """Pretraining on `shelf` (`write_understanding_shelf`); `overrides` as on the command line."""
    architecture = json.loads((shelf / f"{kind}.json").read_text())
    tree: dict[str, Any] = {
        "output": str(output),
        "seed": 0,
        "init_from": None,
        "epochs": 2,
        "model": {
            "tower": {"source": str(shelf / "vqrae"), "architecture": dict(SIGLIP)},
            "language_model": {"source": str(shelf / kind), "architecture": architecture},
            "projector": "mlp2x_gelu",
            "vision_select_layer": -1,
            "template": "plain",
            "train": ["projector"],
        },
        "data": {
            "sources": [{"annotations": str(shelf / "captions.json"), "images": str(shelf / "images")}],
            "max_length": 160,
            "group": "none",
            "workers": 0,
        },
        "batch": {"global_size": 4, "micro_size": 2},
        "optimizer": {
            "lr": 1e-2,
            "warmup_ratio": 0.1,
            "adamw": {"betas": [0.9, 0.999], "weight_decay": 0.0, "max_grad_norm": 1.0},
        },
        "engine": {"zero_stage": 2, "precision": "fp32"},
        "logging": {"log_every": 2, "picture_every": 3, "evaluate_every": 3, "writers": []},
        "checkpoint": {"save_every": 2, "keep": 2},
        "evaluation": {"source": None},
    }
    if "model.template=plain" not in overrides and any(
        override.startswith("model.template=") for override in overrides
    ):
        tree["data"]["sources"][0]["annotations"] = str(shelf / "conversations.json")
    for override in overrides:
        _apply_override(tree, override)
    return validate(UnderstandingConfig, tree, where="tiny")


FINE_TUNING = (
    "model.template=vicuna_v1",
    "model.train=[projector, language_model]",
    "data.group=modality_length",
    "engine.zero_stage=3",
    "optimizer.lr=2e-3",
)


def write_understanding_shelf(folder: Path) -> Path:
    """A VQRAE, a language model of each family, and conversations with pictures."""
    from common.models.encoder_loading import build_encoder
    from common.models.vqrae import VQRAE

    folder.mkdir(parents=True, exist_ok=True)
    VQRAE.from_encoder(build_encoder(SIGLIP), 32, 16, 4).save_pretrained(folder / "vqrae")
    for kind in ("llama", "qwen2", "qwen3"):
        architecture = write_language_model(folder / kind, kind)
        (folder / f"{kind}.json").write_text(json.dumps(architecture))
    write_conversations(folder)
    return folder
