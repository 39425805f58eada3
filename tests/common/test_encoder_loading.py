"""Towers from every kind of checkpoint there is, and one clear line for everything else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import hub_layouts
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    SiglipConfig,
    SiglipModel,
)

from common.errors import UserError
from common.models.encoder_loading import build_encoder, load_encoder
from common.models.internvit_keys import _CONFIG
from common.models.vision_encoder import VisionEncoder

RENAMED = {
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_": "ls",
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "patch_embeddings.projection": "patch_embedding",
}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def same(one: VisionEncoder, other: VisionEncoder) -> bool:
    pixels = torch.rand(2, 3, one.image_size, one.image_size)
    return torch.equal(one.eval()(pixels), other.eval()(pixels))


@pytest.mark.parametrize("architecture", [tiny.SIGLIP, tiny.INTERNVIT])
def test_a_tower_survives_its_own_folder(architecture: dict[str, Any], tmp_path: Path) -> None:
    encoder = build_encoder(architecture)
    encoder.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path), architecture)
    assert same(encoder, loaded) and loaded.image_mean == encoder.image_mean
    plain = encoder.model_class.from_pretrained(tmp_path)  # what everyone else would call
    assert torch.equal(
        plain.eval()(
            torch.ones(1, 3, 28, 28) if "attention_bias" in architecture else torch.ones(1, 3, 16, 16)
        )[0],
        encoder.model.eval()(
            torch.ones(1, 3, 28, 28) if "attention_bias" in architecture else torch.ones(1, 3, 16, 16)
        )[0],
    )


def test_the_vision_part_of_a_full_siglip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = {**SMALL, "vocab_size": 50, "projection_size": 16}
    full = SiglipModel(
        SiglipConfig(
            vision_config={k: v for k, v in tiny.SIGLIP.items() if k != "model_type"}, text_config=text
        )
    )
    full.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        encoder = load_encoder(str(tmp_path))
    assert torch.equal(
        encoder.model.embeddings.patch_embedding.weight, full.vision_model.embeddings.patch_embedding.weight
    )
    assert "not part of the vision tower" in caplog.text and "text_model" in caplog.text


def test_the_vision_part_of_a_full_internvl(tmp_path: Path) -> None:
    text = Qwen2Config(**SMALL, num_key_value_heads=2, vocab_size=32)
    full = InternVLForConditionalGeneration(InternVLConfig(vision_config=tiny.INTERNVIT, text_config=text))
    full.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    pixels = torch.rand(1, 3, 28, 28)
    assert torch.equal(
        encoder.eval()(pixels), full.model.vision_tower.eval()(encoder.normalize(pixels))[0][:, 1:]
    )


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_original_internvit_keys(tmp_path: Path, prefix: str) -> None:
    encoder = build_encoder(tiny.INTERNVIT)
    original = {}
    for name, tensor in encoder.model.state_dict().items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [encoder.model.state_dict()[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name, tensor = name.replace("attention.q_proj", "attn.qkv"), torch.cat(parts)
        for ours, theirs in RENAMED.items():
            name = name.replace(ours, theirs)
        original[prefix + name] = tensor.contiguous()
    config = {theirs: tiny.INTERNVIT[ours] for theirs, ours in _CONFIG.items() if ours in tiny.INTERNVIT}
    stated = {"model_type": "internvl_chat", "vision_config": {"model_type": "intern_vit_6b", **config}}
    if prefix:
        original["language_model.weight"] = torch.zeros(2)
    else:
        stated = {"model_type": "intern_vit_6b", **config}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    save_file(original, tmp_path / "model.safetensors")
    assert same(encoder, load_encoder(str(tmp_path)))


def test_siglip2_as_on_the_hub(tmp_path: Path) -> None:
    """Both towers in one file, and a config without what is usual: read as the library's whole model reads it."""
    stated = hub_layouts.write_siglip2(tmp_path)
    encoder = load_encoder(str(tmp_path), stated).eval()
    whole = SiglipModel.from_pretrained(tmp_path).eval()
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        seen = whole.vision_model(encoder.normalize(pixels), output_hidden_states=True).hidden_states[-1]
        assert torch.equal(encoder(pixels), seen) and seen.std() > 0.1


def test_internvl3_as_on_the_hub(tmp_path: Path) -> None:
    """bfloat16 in several files under the names of 2025, sides in pairs: read as the library's whole model reads it."""
    stated = hub_layouts.write_internvl(tmp_path)
    encoder = load_encoder(str(tmp_path), stated).eval()
    whole = InternVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    pixels = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        seen = whole.model.vision_tower(encoder.normalize(pixels)).last_hidden_state[:, 1:]
        assert torch.equal(encoder(pixels), seen) and seen.std() > 0.1


def test_other_resolutions_and_shapes_interpolate_positions() -> None:
    for architecture, patch in ((tiny.SIGLIP, 4), (tiny.INTERNVIT, 7)):
        encoder = build_encoder(architecture)
        for grid in ((4, 4), (2, 8), (5, 3)):
            assert encoder(torch.rand(1, 3, grid[0] * patch, grid[1] * patch)).shape == (
                1,
                grid[0] * grid[1],
                16,
            )


def damage(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_everything_else_is_one_clear_line(tmp_path: Path) -> None:
    def complaint(source: Path | str, expected: dict[str, Any] | None = None) -> str:
        with pytest.raises(UserError) as error:
            load_encoder(str(source), expected)
        assert "\n" not in str(error.value) and str(source) in str(error.value)
        return str(error.value)

    def fresh(name: str) -> Path:
        build_encoder(tiny.SIGLIP).save_pretrained(tmp_path / name)
        return tmp_path / name

    assert "no such folder" in complaint(tmp_path / "gone")
    assert "hub" in complaint("nobody/nothing-at-all")
    (tmp_path / "empty").mkdir()
    assert "config.json" in complaint(tmp_path / "empty")
    LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=32)).save_pretrained(tmp_path / "llama")
    assert "model_type: expected one of" in complaint(tmp_path / "llama")
    assert "the recipe states 32, the checkpoint has 16" in complaint(fresh("width"), {"hidden_size": 32})
    folder = fresh("shape")
    damage(folder, intermediate_size=48)
    assert "expected shape" in complaint(folder)
    folder = fresh("deeper")
    damage(folder, num_hidden_layers=2)
    assert "are missing" in complaint(folder)
    folder = fresh("truncated")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be read as weights" in complaint(folder)
    folder = fresh("no_weights")
    (folder / "model.safetensors").unlink()
    assert "no weights there" in complaint(folder)
    assert load_file(fresh("sound") / "model.safetensors")
