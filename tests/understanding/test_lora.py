"""Adapters: they start as nothing, come with the projector, and merge into the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from language_sides import batch_for, logits_of, parts
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from common.errors import UserError
from understanding import assemble
from understanding.config import LoRAConfig, UnderstandingConfig
from understanding.export import export_model, save_adapter
from understanding.lora import is_adapter
from understanding.sizes import count_parameters, numel

LORA = "model.lora={rank: 2, alpha: 8, dropout: 0.5}"


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(kind: str, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder, as pretraining leaves it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    export_model(folder, *parts(recipe(shelf, kind, "init_from=null")))
    return folder


def recipe(shelf: Path, kind: str, *overrides: str) -> UnderstandingConfig:
    template = "vicuna_v1" if kind == "llama" else "qwen"
    chosen = (*tiny.FINE_TUNING, f"model.template={template}", "engine.zero_stage=1", *overrides)
    return tiny.understanding_recipe(shelf, shelf / "run", *chosen, kind=kind)


def test_adapters_start_as_nothing_and_merge_into_the_same_model(
    shelf: Path, base: Path, kind: str, tmp_path: Path
) -> None:
    config = recipe(shelf, kind, f"init_from={base}", LORA)
    side, tower, processor = parts(config)
    batch = batch_for(side)
    plain = AutoModelForImageTextToText.from_pretrained(base).eval()
    with torch.no_grad():
        before = plain(**batch).logits
    torch.testing.assert_close(logits_of(side, tower, batch), before, atol=1e-6, rtol=1e-5)

    # What training would do to what learns, and nothing else.
    with torch.no_grad():
        for parameter in side.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    expected = logits_of(side, tower, batch)
    assert (expected - before).abs().max() > 1e-2

    export_model(tmp_path / "merged", side, tower, processor)
    save_adapter(tmp_path / "adapter", side, str(base))
    torch.testing.assert_close(logits_of(side, tower, batch), expected)  # neither of them has changed it
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = [merged(**batch).logits, adapted(**batch).logits, adapted.merge_and_unload()(**batch).logits]
    for logits in found:
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_an_adapters_folder_holds_the_projector(shelf: Path, base: Path, kind: str, tmp_path: Path) -> None:
    side, _, _ = parts(recipe(shelf, kind, f"init_from={base}", LORA))
    save_adapter(tmp_path / "adapter", side, str(base))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    projector = "base_model.model.model.multi_modal_projector."
    assert {name.removeprefix(projector) for name in saved if name.startswith(projector)} == {
        f"linear_{number}.{leaf}" for number in (1, 2) for leaf in ("weight", "bias")
    }
    learns = {name for name, parameter in side.llava.named_parameters() if parameter.requires_grad}
    assert len(learns) == len(saved)
    assert {name for name in learns if not is_adapter(name)} == {
        name for name, _ in side.llava.named_parameters() if "multi_modal_projector" in name
    }
    stated = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (stated["r"], stated["lora_alpha"], stated["base_model_name_or_path"]) == (2, 8, str(base))
    assert stated["modules_to_save"] == ["multi_modal_projector"]


def test_every_linear_layer_of_the_language_model_is_adapted(shelf: Path, base: Path, kind: str) -> None:
    config = recipe(shelf, kind, f"init_from={base}", LORA)
    side, _, _ = parts(config)
    layers = 7 * 2  # q, k, v, o, gate, up, down in two layers
    names = [name for name, _ in side.llava.named_parameters() if is_adapter(name)]
    assert len(names) == 2 * layers and all(".language_model.layers." in name for name in names)
    counts = count_parameters(config.model)
    adapters = sum(numel(parameter) for name, parameter in side.llava.named_parameters() if is_adapter(name))
    assert counts.adapters == adapters
    for name, parameter in side.llava.named_parameters():
        assert (".lora_B." in name) <= (not parameter.any())
        assert (".lora_A." in name) <= bool(parameter.any())
    assert config.model.lora == LoRAConfig(rank=2, alpha=8, dropout=0.5)


def test_each_part_has_its_rate(shelf: Path) -> None:
    """LLaVA's two rates; each learned parameter in one group."""
    rates = ("optimizer.lr=2e-4", "optimizer.projector_lr=2e-5")
    for more, adapted in ((LORA,), True), ((), False):
        config = recipe(shelf, "llama", "init_from=null", *rates, *more)
        side, *_ = parts(config)
        groups = assemble.learned_groups(side, config.optimizer)
        names = {
            id(parameter): name for name, parameter in side.named_parameters() if parameter.requires_grad
        }
        found: dict[str, float] = {}
        for group in groups:
            for parameter in group["params"]:
                assert names[id(parameter)] not in found
                found[names[id(parameter)]] = group["lr"]
        assert found.keys() == set(names.values())
        assert {rate for name, rate in found.items() if "multi_modal_projector" in name} == {2e-5}
        rest = {name: rate for name, rate in found.items() if "multi_modal_projector" not in name}
        assert set(rest.values()) == {2e-4} and all(is_adapter(name) for name in rest) is adapted
    config = recipe(shelf, "llama", "init_from=null", "optimizer.lr=2e-4")
    assert {group["lr"] for group in assemble.learned_groups(parts(config)[0], config.optimizer)} == {2e-4}


def test_a_rate_for_what_does_not_learn(shelf: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.projector_lr: the projector does not learn"):
        recipe(shelf, "llama", "model.train=[language_model]", "optimizer.projector_lr=2e-5")
