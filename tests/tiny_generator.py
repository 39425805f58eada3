"""The smallest generator: pictures with captions, a VQRAE, a Qwen3, and a recipe that joins them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import torch
from text_tokenizers import qwen_text_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from common.config import _apply_override, validate
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from common.models.weight_files import state_sha256
from generation.config import MARKS, GenerationConfig
from generation.model_folder import GeneratorFolder
from generation.vocabulary import VisualVocabulary, expand

CAPTIONS = (
    "a photo of a red circle",
    "two blue squares on a white background",
    "a triangle left of a circle",
    "three small bowls",
)
SHAPE = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "tie_word_embeddings": True,
}
CODES = 32
PADDED = 13  # rows of the embedding behind the text vocabulary, as in Qwen's


def write_shelf(folder: Path, pictures: int = 12) -> Path:
    """`images` (with captions), `vqrae`, `other_vqrae` (another seed) and `qwen3`."""
    tiny.write_pictures(folder / "images", pictures)
    lines = [
        json.dumps({"file_name": f"{index:03d}.png", "caption": CAPTIONS[index % len(CAPTIONS)]})
        for index in range(pictures)
    ]
    (folder / "images" / "captions.jsonl").write_text("\n".join(lines))
    for seed, name in enumerate(("vqrae", "other_vqrae")):
        write_vqrae(folder / name, seed)
    write_language_model(folder / "qwen3")
    return folder


def write_vqrae(folder: Path, seed: int = 0, codes: int = CODES) -> VQRAE:
    torch.manual_seed(seed)
    vqrae = VQRAE.from_encoder(build_encoder(tiny.SIGLIP), codes, 16, 4)
    vqrae.save_pretrained(folder)
    return vqrae


def write_language_model(folder: Path, **changes: Any) -> int:
    """A random Qwen3 with its text tokenizer; returns the length of the latter."""
    text_tokenizer = qwen_text_tokenizer()
    fields = {key: value for key, value in {**SHAPE, **changes}.items() if key != "model_type"}
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(text_tokenizer) + PADDED, **fields)).save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    return len(text_tokenizer)


def write_generator(
    folder: Path, codes: int = CODES, side: int = 4, text_room: int = 42, **changes: Any
) -> GeneratorFolder:
    """An untrained generator, saved; its pictures are of 4 px for each of side x side codes."""
    text_tokenizer = qwen_text_tokenizer()
    vqrae = write_vqrae(folder / "vqrae", codes=codes)
    vocabulary = VisualVocabulary(
        offset=len(text_tokenizer),
        codebook_size=codes,
        grid=(side, side),
        image_size=4 * side,
        max_length=text_room + side * side + MARKS,
        vqrae_sha256=state_sha256(vqrae.state_dict()),
    )
    fields = {key: value for key, value in {**SHAPE, **changes}.items() if key != "model_type"}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(text_tokenizer), **fields))
    expand(model, text_tokenizer, vqrae, vocabulary, "normal")
    generator = GeneratorFolder(
        model=model.eval(), text_tokenizer=text_tokenizer, vqrae=vqrae.eval(), vocabulary=vocabulary
    )
    generator.save_pretrained(folder)
    return generator


def recipe(shelf: Path, output: Path, *overrides: str) -> GenerationConfig:
    """Training on a shelf (`write_shelf`), encoded online; `overrides` as on the command line."""
    text = len(qwen_text_tokenizer())
    encoder = {key: tiny.SIGLIP[key] for key in tiny.SIGLIP}
    tree: dict[str, Any] = {
        "output": str(output),
        "seed": 0,
        "init_from": None,
        "steps": 6,
        "model": {
            "tokenizer": {
                "source": str(shelf / "vqrae"),
                "encoder": encoder,
                "codebook_size": CODES,
                "codebook_dim": 16,
                "output_patch_size": 4,
                "precision": "fp32",
            },
            "language_model": {
                "source": str(shelf / "qwen3"),
                "text_vocabulary": text,
                "architecture": {**SHAPE, "vocab_size": text + PADDED},
            },
            "new_embeddings": "mean",
        },
        "data": {
            "image_size": 16,
            "sources": [{"kind": "folder", "path": str(shelf / "images")}],
            "max_length": 40,
            "prompt_dropout": 0.1,
            "workers": 0,
        },
        "loss_vocabulary": "codes",
        "batch": {"global_size": 4, "micro_size": 2},
        "optimizer": {
            "lr": 1e-2,
            "schedule": "constant",
            "warmup_steps": 2,
            "adamw": {"betas": [0.9, 0.999], "weight_decay": 0.0, "eps": 1e-15, "max_grad_norm": 1.0},
        },
        "engine": {"zero_stage": 1, "precision": "fp32"},
        "logging": {"log_every": 2, "picture_every": 3, "evaluate_every": 3, "writers": []},
        "checkpoint": {"save_every": 3, "keep": 2},
        "samples": {"prompts": list(CAPTIONS[:3]), "per_prompt": 2, "sampling": {"cfg_scale": 2.0}},
        "evaluation": {"source": {"kind": "folder", "path": str(shelf / "images")}, "limit": 5},
    }
    for override in overrides:
        _apply_override(tree, override)
    return validate(GenerationConfig, tree, where="tiny")
