"""A model is loaded with all of its weights, or the reason is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from common.errors import UserError, refusing
from common.language.causal_lm import build_causal_lm, load_causal_lm, load_text_tokenizer
from common.models.strict_loading import check_architecture, config_of, load_strictly
from common.models.weight_files import check_model_type

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def complaint(folder: Path, surplus: bool = False) -> str:
    with pytest.raises(UserError) as error:
        load_strictly(LlamaForCausalLM, folder, "a llama", surplus=surplus)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_fit_or_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.norm.weight"
    loaded = load_strictly(LlamaForCausalLM, folder, "a llama", dtype=torch.float32)
    assert torch.equal(loaded.state_dict()[name], weights[name])

    save_file(
        {key: value for key, value in weights.items() if key != name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert complaint(folder) == complaint(folder, surplus=True)
    assert complaint(folder) == f"{folder}: weights do not fit config.json: missing_keys: {name}"

    more = {**weights, "model.another": torch.ones(1)}
    save_file(more, folder / "model.safetensors", {"format": "pt"})
    assert complaint(folder).endswith("unexpected_keys: model.another")
    assert load_strictly(LlamaForCausalLM, folder, "a llama", surplus=True) is not None

    save_file({**weights, name: torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    assert complaint(folder).startswith(f"{folder}: cannot be loaded as a llama: ")
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert complaint(folder).startswith(f"{folder}: cannot be loaded as a llama: ")


def test_a_causal_language_model_and_its_text_tokenizer(folder: Path) -> None:
    assert isinstance(load_causal_lm(folder, "auto", "sdpa"), LlamaForCausalLM)
    with pytest.raises(UserError, match=r"field: no text tokenizer can be loaded: ") as error:
        load_text_tokenizer(folder, "field: ")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"gone/config\.json: cannot be read: No such file"):
        load_causal_lm(folder / "gone", "auto", "sdpa")
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(UserError, match=r"cannot be loaded as a language model \(siglip\)"):
        load_causal_lm(folder, "auto", "sdpa")


def test_kinds(folder: Path) -> None:
    assert check_model_type(folder, "llava", "llama") == "llama"
    with pytest.raises(UserError, match=r"config\.json: model_type: expected 'a' or 'b', found 'llama'"):
        check_model_type(folder, "a", "b")


def test_a_stated_architecture() -> None:
    stated = {"model_type": "llama", **SIZES}
    config = config_of(stated, "model.architecture")
    assert config.to_dict() == LlamaConfig(**SIZES).to_dict()
    check_architecture(config, stated, "there")
    text = "there: config.json: hidden_size: the recipe states 9, the checkpoint has 8"
    with pytest.raises(UserError, match=f"^{text}$"):
        check_architecture(config, {**stated, "hidden_size": 9}, "there")
    with pytest.raises(
        UserError, match=r"^there: model\.size: the recipe states 9, the checkpoint has None$"
    ):
        check_architecture(config, {"size": 9}, "there", "model.")
    assert isinstance(build_causal_lm(stated, "model.architecture"), LlamaForCausalLM)
    for wrong in ({**stated, "model_type": "nothing"}, {**stated, "hidden_size": "wide"}):
        with pytest.raises(UserError, match=r"^model\.architecture: ") as error:
            build_causal_lm(wrong, "model.architecture")
        assert "\n" not in str(error.value) and str(error.value).count("model.architecture") == 1


def test_what_a_library_raises_becomes_one_line() -> None:
    with pytest.raises(UserError, match=r"^here: two lines$"), refusing("here"):
        raise OSError("two\nlines")
    with pytest.raises(UserError, match=r"^here: x{400}$"), refusing("here"):
        raise ValueError("x" * 999)
    with pytest.raises(UserError, match=r"^as it is$"), refusing("here"):
        raise UserError("as it is")


def test_the_base_of_rotations_is_held_against_the_recipe() -> None:
    """transformers keeps it in `rope_parameters`, where a recipe's `rope_theta` has no field of its own."""
    config = config_of({"model_type": "llama", **SIZES, "rope_theta": 100.0}, "here")
    check_architecture(config, {**SIZES, "rope_theta": 100.0}, "there")
    with pytest.raises(UserError, match=r"rope_theta: the recipe states 500\.0, the checkpoint has 100\.0"):
        check_architecture(config, {"rope_theta": 500.0}, "there")
