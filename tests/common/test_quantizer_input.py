"""What the quantizer reads: the last hidden state as it is, or the mean of several, from the pass that gives Z_I."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.nn.functional import layer_norm

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from common.models.quantizer_input import layers_problem
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae

SIGLIP = {**tiny.SIGLIP, "num_hidden_layers": 3}
INTERNVIT = {**tiny.INTERNVIT, "num_hidden_layers": 3}
FAMILIES = [
    pytest.param(SIGLIP, 4, id="siglip"),
    pytest.param(INTERNVIT, 8, id="internvit"),
]  # of p 4, and of p 7
DEEP = [0, 1, 3]


def make(architecture: dict[str, Any], patch: int, layers: list[int] | None) -> VQRAE:
    torch.manual_seed(0)
    model = VQRAE.from_encoder(build_encoder(architecture), 64, 24, patch, quantizer_layers=layers).eval()
    for parameter in model.parameters():  # away from the start, where much is zero
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.quantizer.feature_mean.normal_()
    return model


def states_of_transformers(model: VQRAE, pixels: torch.Tensor) -> list[torch.Tensor]:
    """(B, N, D) each, as the tower's own class gives them."""
    tower, seen = model.encoder.model, model.encoder.normalize(model.encoder_pixels(pixels))
    first = 1 if hasattr(tower.embeddings, "cls_token") else 0
    options = {"interpolate_pos_encoding": True} if first == 0 else {}
    return [state[:, first:] for state in tower(seen, output_hidden_states=True, **options).hidden_states]


@pytest.mark.parametrize(("architecture", "patch"), FAMILIES)
@pytest.mark.parametrize("layers", [[3], [1], DEEP, [0, 1, 2, 3]], ids=str)
def test_it_is_the_mean_of_normalised_hidden_states(
    architecture: dict, patch: int, layers: list[int]
) -> None:
    model, pixels = make(architecture, patch, layers), torch.rand(2, 3, 4 * patch, 4 * patch)
    states = states_of_transformers(model, pixels)
    assert len(states) == 4
    expected = sum(layer_norm(states[layer], (16,), eps=1e-6) for layer in layers) / len(layers)
    features, quantizer_input = model.read(model.encoder_pixels(pixels))
    torch.testing.assert_close(quantizer_input, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(features, model.encode_features(pixels)) and torch.equal(features, states[-1])
    # The features are those of a model that quantizes them alone.
    assert torch.equal(features, make(architecture, patch, None).encode(pixels).features)


@pytest.mark.parametrize(("architecture", "patch"), FAMILIES)
@pytest.mark.parametrize("layers", [None, DEEP], ids=str)
def test_the_tower_runs_once(architecture: dict, patch: int, layers: list[int] | None) -> None:
    model, runs = make(architecture, patch, layers), []
    tower = model.encoder.model
    blocks = tower.encoder.layers if hasattr(tower.encoder, "layers") else tower.encoder.layer
    for module in (tower.embeddings, *blocks):
        module.register_forward_hook(lambda module, *_: runs.append(module))
    model(torch.rand(1, 3, 4 * patch, 4 * patch))
    assert runs == [tower.embeddings, *blocks]


@pytest.mark.parametrize(("architecture", "patch"), FAMILIES)
@pytest.mark.parametrize("layers", [None, DEEP], ids=str)
def test_every_way_to_codes_leads_to_the_same(
    architecture: dict, patch: int, layers: list[int] | None, tmp_path: Path
) -> None:
    from evals.cluster_figure import describe
    from generation.code_encoder import CodeEncoder
    from tokenizer.inference import reconstruct

    model = make(architecture, patch, layers)
    pictures = torch.randint(0, 256, (3, 3, 4 * patch, 4 * patch), dtype=torch.uint8)
    pixels = pictures.float() / 255
    out, encoded = model(pixels), model.encode(pixels)
    assert torch.equal(out.codes, encoded.codes) and len(out.codes.unique()) > 4
    assert torch.equal(CodeEncoder(model, "fp32")(pictures), out.codes)
    rebuilt = out.reconstruction.clamp(0, 1)
    torch.testing.assert_close(model.decode_quantizer_input(encoded.quantizer_input, (4, 4)), rebuilt)
    reading = model.read(model.encoder_pixels(pixels))
    assert torch.equal(reading.quantizer_input, out.quantizer_input)
    bare = model(pixels, quantize=False)
    assert torch.equal(bare.reconstruction, model.decoder(model.quantizer.embed(out.quantizer_input), (4, 4)))
    if patch == model.encoder.patch_size:  # these resize by themselves
        assert torch.equal(reconstruct(model, pixels)[1], out.codes)
        assert torch.equal(describe(model, pictures)[1], model.quantizer.lookup(out.codes.flatten(1)).mean(1))
    model.save_pretrained(tmp_path)
    loaded, _ = load_vqrae(str(tmp_path))
    stated = loaded.config.quantizer_layers
    assert (list(stated) if stated else stated) == layers and torch.equal(
        loaded.encode(pixels).codes, out.codes
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode(pixels).codes, loaded.encode(pixels).codes)


def test_other_states_give_other_codes() -> None:
    pixels = torch.rand(2, 3, 16, 16)
    codes = [make(SIGLIP, 4, layers).encode(pixels).codes for layers in (None, [3], DEEP)]
    assert not torch.equal(codes[0], codes[1]) and not torch.equal(codes[1], codes[2])


def test_the_last_alone_is_read_as_it_always_was(tmp_path: Path) -> None:
    model, pixels = make(SIGLIP, 4, None), torch.rand(2, 3, 16, 16)
    tower = model.encoder.model
    embeddings = tower.embeddings(model.encoder.normalize(pixels), interpolate_pos_encoding=True)
    features = tower.encoder(inputs_embeds=embeddings).last_hidden_state
    encoded = model.encode(pixels)
    assert torch.equal(encoded.features, features) and encoded.quantizer_input is encoded.features
    assert torch.equal(encoded.codes.flatten(1), model.quantizer(features).codes)
    model.save_pretrained(tmp_path)
    # Of a checkpoint from before there was a choice.
    assert "quantizer_layers" not in json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(load_vqrae(str(tmp_path))[0].encode(pixels).codes, encoded.codes)


@pytest.mark.parametrize(("architecture", "patch"), FAMILIES)
def test_checkpointed_layers_learn_the_same(architecture: dict, patch: int) -> None:
    pixels, gradients = torch.rand(2, 3, 4 * patch, 4 * patch), []
    for checkpointed in (False, True):
        model = make(architecture, patch, DEEP).train()
        if checkpointed:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        out = model(pixels)
        (
            out.reconstruction.square().mean() + out.quantizer_input.square().mean() + out.commitment_loss
        ).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any("embeddings" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_features_are_no_input_of_a_quantizer_that_reads_more() -> None:
    model = make(SIGLIP, 4, DEEP)
    features = model.encode(torch.rand(1, 3, 16, 16)).features
    with pytest.raises(ValueError, match=r"reads the hidden states \[0, 1, 3\]; decode_quantizer_input"):
        model.decode_features(features, (4, 4))


@pytest.mark.parametrize("layers", [[], [4], [-1], [1, 1], [2, 0], [0, 1, 2, 3, 4]], ids=str)
def test_hidden_states_that_are_not_there_are_refused(layers: list[int], tmp_path: Path) -> None:
    assert layers_problem(layers, 3) and "\n" not in str(layers_problem(layers, 3))
    with pytest.raises(ValueError, match=r"^quantizer_layers: expected .* from 0 \(the embeddings\) to 3 "):
        make(SIGLIP, 4, layers)
    make(SIGLIP, 4, None).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stated, "quantizer_layers": layers}))
    with pytest.raises(UserError, match=r"cannot be loaded as a VQRAE: .*quantizer_layers: expected"):
        load_vqrae(str(tmp_path))


def test_what_a_models_quantizer_is_given_is_called_so() -> None:
    """Of all rooms: features have the same shape, and nothing else would tell."""
    root, seen = Path(__file__).parents[2], []
    for path in (
        p
        for room in ("common", "tokenizer", "generation", "evals", "scripts")
        for p in (root / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func)
            if called.endswith((".quantizer", ".quantizer.embed")):
                seen.append(path.name)
                assert "quantizer_input" in ast.unparse(node.args[0]), f"{path}:{node.lineno}"
    assert {"vqrae.py", "inference.py", "code_encoder.py", "cluster_figure.py"} <= set(seen)
