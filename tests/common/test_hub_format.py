"""Folders for others: the names, keys and classes of the hub's own checkpoints, and nothing lost on the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from text_tokenizers import llama_text_tokenizer, qwen_text_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionModel,
)

from common.models.encoder_loading import build_encoder, load_encoder
from common.models.hub_format import restate_config, save_text_tokenizer

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = ["A photo of two giraffes.", "  x\n<image>\nUSER: zwölf 123", ""]


def test_a_siglip_tower_is_named_as_on_the_hub(tmp_path: Path) -> None:
    encoder = build_encoder(tiny.SIGLIP)
    encoder.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in stored)
    assert not any(".head." in name for name in stored)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["vision_use_head"] is False and config["architectures"] == ["SiglipVisionModel"]
    assert encoder.model.use_head and encoder.model.config.vision_use_head  # itself untouched
    _, info = SiglipVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize("prefix", ["", "vision_tower.", "vision_tower.vision_model.", "model.vision_tower."])
def test_towers_are_read_under_every_name_they_have_had(tmp_path: Path, prefix: str) -> None:
    encoder = build_encoder(tiny.SIGLIP)
    encoder.model.config.save_pretrained(tmp_path)
    save_file(
        {prefix + name: one for name, one in encoder.model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    read = load_encoder(str(tmp_path)).model.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in encoder.model.state_dict().items())


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 1e6, "rope_type": "default"},
        {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0},
        {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
    ],
)
def test_rotary_embeddings_stand_under_both_keys(tmp_path: Path, rotary: dict[str, Any]) -> None:
    config = LlamaConfig(**SIZES, rope_parameters=dict(rotary))
    config.save_pretrained(tmp_path)
    restate_config(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    assert stated["rope_theta"] == rotary["rope_theta"]
    assert stated.get("partial_rotary_factor") == rotary.get("partial_rotary_factor")
    scaled = rotary["rope_type"] != "default"
    assert stated["rope_scaling"] == ({"rope_type": "linear", "factor": 2.0} if scaled else None)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters
    del stated["rope_parameters"]  # as transformers 4 reads it, and as the hub's older checkpoints are
    (tmp_path / "config.json").write_text(json.dumps(stated))
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_text_tokenizers_keep_their_ids(tmp_path: Path, kind: str) -> None:
    text_tokenizer = llama_text_tokenizer() if kind == "llama" else qwen_text_tokenizer()
    text_tokenizer.add_tokens(["<image>"], special_tokens=True)
    text_tokenizer.padding_side = "left"
    text_tokenizer.chat_template = "{{ messages[0].content }}"
    text_tokenizer(TEXTS, padding=True, truncation=True, max_length=8)  # leaves its mark on the rules
    (Qwen3Config if kind == "qwen" else LlamaConfig)(**SIZES).save_pretrained(tmp_path)
    save_text_tokenizer(tmp_path, text_tokenizer)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert "extra_special_tokens" not in settings and "backend" not in settings
    rules = json.loads((tmp_path / "tokenizer.json").read_text())
    assert rules["padding"] is None and rules["truncation"] is None
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS).input_ids == text_tokenizer(TEXTS).input_ids
    assert loaded.padding_side == "left" and loaded.chat_template == text_tokenizer.chat_template
    for token in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(loaded, token) == getattr(text_tokenizer, token), token


def test_special_tokens_and_spaces_in_front_are_stated_for_both_versions(tmp_path: Path) -> None:
    rules = Tokenizer(models.BPE(vocab={"a": 0, "<x>": 1, "<y>": 2}, merges=[]))
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    text_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rules, additional_special_tokens=["<y>"], extra_special_tokens={"image_token": "<x>"}
    )
    save_text_tokenizer(tmp_path, text_tokenizer)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["add_prefix_space"] is True
    assert "<x>" in json.dumps(settings)
    assert AutoTokenizer.from_pretrained(tmp_path)("a").input_ids == text_tokenizer("a").input_ids
