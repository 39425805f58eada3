"""InternViT's way: a VQRAE's encoder in an InternVL checkpoint is read there as it was trained, and all else stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2Config,
)

from common.errors import UserError
from common.models.encoder_loading import build_encoder, load_encoder
from common.models.hub_format import restate_config
from common.models.vqrae import VQRAE
from understanding import internvl

ROOT = Path(internvl.__file__).parent.parent
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_internvl(folder: Path, dtype: torch.dtype = torch.float32, **vision: Any) -> Path:
    """As InternVL3's `-hf` checkpoints: several files, and whatever else lies beside them."""
    torch.manual_seed(1)
    config = InternVLConfig(
        vision_config={**tiny.INTERNVIT, **vision},
        text_config=Qwen2Config(**TEXT, num_key_value_heads=2, vocab_size=64),
        image_token_id=60,
        image_seq_length=4,
    )
    model = InternVLForConditionalGeneration(config).to(dtype)
    model.save_pretrained(folder, max_shard_size=4000)
    restate_config(folder)
    GotOcr2ImageProcessor(
        size={"height": 28, "width": 28}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(folder)
    (folder / "README.md").write_text("about it")
    return folder


@pytest.fixture(scope="module")
def vqrae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqrae")
    torch.manual_seed(2)
    VQRAE.from_encoder(build_encoder(tiny.INTERNVIT), 32, 16, 7).save_pretrained(folder)
    return folder


def test_internvl_reads_what_the_vqrae_reads(
    vqrae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_internvl(tmp_path / "internvl")
    internvl.main(["insert", str(vqrae), str(source), str(tmp_path / "out")])
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert stated["architectures"] == ["Qwen2ForCausalLM"]
    assert stated["rope_theta"] == stated["rope_parameters"]["rope_theta"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    tokenizer = VQRAE.from_pretrained(vqrae).eval()
    pixels = torch.rand(2, 3, 28, 28)
    seen: list[Tensor] = []
    shuffle = type(model.model).pixel_shuffle

    def remember(self: Any, features: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append(features.flatten(1, 2))
        return shuffle(self, features, *rest, **options)

    monkeypatch.setattr(type(model.model), "pixel_shuffle", remember)
    with torch.no_grad():
        model.get_image_features(tokenizer.encoder.normalize(pixels))
        assert torch.equal(seen[0], tokenizer.encode(pixels).features)  # decision 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_but_the_tower_stays(vqrae: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    source, out = write_internvl(tmp_path / "internvl", dtype), tmp_path / "out"
    internvl.insert(str(vqrae), str(source), out)
    assert {path.name for path in out.iterdir()} == {path.name for path in source.iterdir()}
    tower = VQRAE.from_pretrained(vqrae).encoder.model.state_dict()
    weights = sorted(path.name for path in source.glob("*.safetensors"))
    assert len(weights) > 2
    for path in source.iterdir():
        if path.name not in weights:
            assert path.read_bytes() == (out / path.name).read_bytes()
    rewritten = [name for name in weights if (source / name).read_bytes() != (out / name).read_bytes()]
    assert 0 < len(rewritten) < len(weights)
    for name in weights:
        before, after = load_file(source / name), load_file(out / name)
        assert list(before) == list(after)
        for key, tensor in after.items():
            own = tower.get(key.removeprefix("vision_tower."))
            assert tensor.dtype == dtype
            assert torch.equal(tensor, before[key] if own is None else own.to(dtype)), key
        with safe_open(out / name, framework="pt") as handle:
            assert handle.metadata() == {"format": "pt"}


def test_there_and_back(vqrae: Path, tmp_path: Path) -> None:
    """The tower of an InternVL becomes the encoder of a VQRAE, and goes back where it came from."""
    source = write_internvl(tmp_path / "internvl")
    internvl.main(["extract", str(source), str(tmp_path / "tower")])
    encoder = load_encoder(str(tmp_path / "tower"), tiny.INTERNVIT)
    pixels = torch.rand(1, 3, 28, 28)
    whole = InternVLForConditionalGeneration.from_pretrained(source).eval()
    assert torch.equal(
        encoder.eval()(pixels), whole.model.vision_tower(encoder.normalize(pixels)).last_hidden_state[:, 1:]
    )
    assert encoder.image_mean == (0.485, 0.456, 0.406)
    internvl.insert(str(tmp_path / "tower"), str(source), tmp_path / "again")
    for path in source.glob("*.safetensors"):
        before, after = load_file(path), load_file(tmp_path / "again" / path.name)
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_does_not_fit_is_one_line(vqrae: Path, tmp_path: Path) -> None:
    source = write_internvl(tmp_path / "internvl")

    def complaint(verb: str, *arguments: Path | str) -> str:
        with pytest.raises(UserError) as error:
            internvl.main([verb, *map(str, arguments)])
        assert "\n" not in str(error.value)
        return str(error.value)

    out = tmp_path / "out"
    assert "is there already" in complaint("insert", vqrae, source, source)
    assert "no such folder" in complaint("insert", vqrae, tmp_path / "gone", out)
    assert "model_type: expected 'internvl' (a -hf checkpoint), found 'vqrae'" in complaint(
        "insert", vqrae, vqrae, out
    )
    wider = write_internvl(tmp_path / "wider", intermediate_size=64)
    assert "vision_config.intermediate_size:" in complaint("insert", vqrae, wider, out)
    larger = write_internvl(tmp_path / "larger", image_size=56)
    assert "vision_config.image_size:" in complaint("insert", vqrae, larger, out)
    build_encoder(tiny.SIGLIP).save_pretrained(tmp_path / "siglip")
    assert "expected an InternViT" in complaint("insert", tmp_path / "siglip", source, out)
    assert "expected an InternViT" in complaint("extract", tmp_path / "siglip", out)
    stated = json.loads((source / "preprocessor_config.json").read_text())
    (source / "preprocessor_config.json").write_text(json.dumps({**stated, "image_mean": [0.5, 0.5, 0.5]}))
    assert "image_mean:" in complaint("insert", vqrae, source, out)
    assert not out.exists()


def test_a_full_disk_leaves_nothing_behind(
    vqrae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_internvl(tmp_path / "internvl")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(internvl, "_rewrite", full)
    with pytest.raises(UserError, match=r"out: cannot be written: .*No space left"):
        internvl.insert(str(vqrae), str(source), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["internvl"]


def test_help_loads_no_model_library() -> None:
    code = "import sys; sys.argv = ['x', '--help']\ntry:\n from understanding.internvl import main; main()\n"
    code += "finally: print(*sys.modules, file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "insert" in done.stdout
    assert not {"torch", "transformers", "safetensors"} & {name.split(".")[0] for name in done.stderr.split()}
