"""What a tokenizer keeps of meaning: probes that tell what is there to be told and nothing else, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from common.errors import UserError
from common.models.encoder_loading import build_encoder, load_encoder
from common.models.vqrae import VQRAE
from evals.semantics import run, scoring, vectors
from evals.semantics.labelled import read_labelled
from evals.semantics.neighbours import nearest_neighbours
from evals.semantics.probe import fit_linear
from evals.semantics.zero_shot import TextTower

CPU = torch.device("cpu")
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def make_classes(root: Path, each: int = 12) -> Path:
    """Red and blue pictures, with noise."""
    rng = np.random.default_rng(0)
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (root / name / "deeper").mkdir(parents=True)
        for number in range(each):
            noise = rng.normal(0, 12, (32, 32, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            place = root / name / "deeper" if number % 2 else root / name
            Image.fromarray(pixels).save(place / f"{number:02}.png")
    return root


def make_world(root: Path) -> Path:
    """Two squares side by side in each picture, whose colours are drawn."""
    (root / "val").mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for number in range(16):
        pixels, things = np.full((32, 32, 3), 128, np.uint8), []
        for left in (0, 16):
            color = str(rng.choice(["red", "blue"]))
            pixels[8:24, left : left + 16] = (220, 30, 30) if color == "red" else (30, 30, 220)
            things.append(
                {"shape": ["square", "cross"][left // 16], "color": color, "box": [left, 8, left + 16, 24]}
            )
        Image.fromarray(pixels).save(root / "val" / f"{number:06}.png")
        lines.append(json.dumps({"image": f"val/{number:06}.png", "size": 32, "things": things}))
    (root / "val_scenes.jsonl").write_text("\n".join(lines) + "\n")
    return root


def raw(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Patches' own pixels for features before; nothing at all for features after and for codes."""
    patches = torch.nn.functional.pixel_unshuffle(pixels, 8).flatten(2).transpose(1, 2)
    return {vectors.BEFORE: patches, vectors.AFTER: patches * 0, vectors.CODES: patches * 0}


@pytest.mark.parametrize("make", [make_classes, make_world])
def test_what_is_in_the_features_is_told_and_what_is_not_is_not(make: Any, tmp_path: Path) -> None:
    labelled = read_labelled(make(tmp_path))
    question = "class" if labelled.boxes is None else "color"
    found = vectors.vectors(raw, labelled, 32, CPU, 4)
    things = sum(map(len, labelled.labels[question]))
    assert all(len(of_source) == things for of_source in found.values())
    fitted = scoring.split(len(labelled.images), 0.5, 0)
    scored = scoring.scores(found, labelled, fitted, 5, CPU)
    for method in ("probe", "knn"):
        assert scored[f"{question}_{method}_before"].accuracy == 1
        assert scored[f"{question}_{method}_after"].accuracy < 0.8
        change, (low, high) = scoring.differences(scored)[f"{question}_{method}"]
        assert change == pytest.approx(scored[f"{question}_{method}_after"].accuracy - 1)
        assert low <= change <= high < 0
    low, high = scored[f"{question}_probe_after"].interval
    assert low < scored[f"{question}_probe_after"].accuracy < high


def test_a_box_in_a_world_is_that_of_its_thing(tmp_path: Path) -> None:
    """Else the left square would have the right one's colour."""
    labelled = read_labelled(make_world(tmp_path))
    found = vectors.vectors(raw, labelled, 32, CPU, 5)[vectors.BEFORE]
    reddish = found[:, :64].mean(1) > found[:, 128:].mean(1)
    colors = [color for things in labelled.labels["color"] for color in things]
    assert ["red" if red else "blue" for red in reddish] == colors


def test_the_split_is_by_seed_and_each_picture_is_in_one_half() -> None:
    first, again, other = (scoring.split(40, 0.5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other) and first.sum() == 20
    assert [scoring.split(2, share, 0).sum() for share in (0.0, 0.5, 1.0)] == [1, 1, 1]


def test_a_picture_counts_once_however_many_things_are_in_it() -> None:
    found = scoring.accuracy(np.array([True, False, False, False]), np.array([0, 1, 1, 1]))
    assert found.accuracy == 0.5 and found.of_pictures == [1.0, 0.0]
    assert scoring.chance([["a"], ["a"], ["b"], ["a"]], np.array([True, True, False, False])) == 0.5


def test_neighbours_vote_by_cosine() -> None:
    """By hand: two far neighbours of one class outvote one near one only if they are near enough."""
    fitted = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, 3.0]])
    target = torch.tensor([0, 1, 1])
    inputs = torch.tensor([[2.0, 0.1], [1.0, 1.0], [0.1, 9.0]])
    assert nearest_neighbours(fitted, target, inputs, 2, 3).tolist() == [0, 1, 1]
    assert nearest_neighbours(fitted, target, inputs[:1], 2, 99).tolist() == [0]


def test_a_probe_is_the_same_every_time_and_needs_no_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 3, generator=generator)
    target = (inputs[:, 1] > 0).long()
    told = fit_linear(inputs, target, 2).predict(inputs)
    assert (told == target).float().mean() > 0.95
    scaled = inputs * torch.tensor([1.0, 1e3, 1e-3]) + 7
    assert torch.equal(fit_linear(scaled, target, 2).predict(scaled), told)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP with both towers and a tokenizer, its vision tower alone, and a tokenizer (VQRAE) that began from it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    root = tmp_path_factory.mktemp("towers")
    words = ["<pad>", "<unk>", "this", "is", "a", "photo", "of", "red", "blue", "."]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 16}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    both = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    both.save_pretrained(root / "both")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        root / "both"
    )
    encoder = load_encoder(str(root / "both"))
    encoder.save_pretrained(root / "tower")
    VQRAE.from_encoder(encoder, 32, 16).save_pretrained(root / "vqrae")
    other = build_encoder({"model_type": "siglip_vision_model", **vision, "hidden_size": 8})
    other.save_pretrained(root / "narrow")
    return root


def test_zero_shot_embeds_as_the_checkpoint_itself_does(towers: Path) -> None:
    tower = TextTower(towers / "both", CPU)
    encoder = load_encoder(str(towers / "both"))
    whole = SiglipModel.from_pretrained(str(towers / "both")).eval()
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.vision_model(pixel_values=encoder.normalize(pixels)).pooler_output
        mine = tower.pictures(encoder(pixels))
    torch.testing.assert_close(mine, expected / expected.norm(dim=1, keepdim=True))
    names = tower.classes(["red", "blue"])
    ids = tower.tokenizer(
        ["this is a photo of red."], padding="max_length", max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        text = whole.text_model(input_ids=ids["input_ids"]).pooler_output
    torch.testing.assert_close(names[:1], text / text.norm(dim=1, keepdim=True))


@pytest.mark.slow
def test_the_command_compares_before_and_after(towers: Path, tmp_path: Path) -> None:
    make_classes(tmp_path / "in")
    words = [str(towers / "vqrae"), "--before", str(towers / "both"), "--images", str(tmp_path / "in")]
    run.main([*words, "--output", str(tmp_path / "out"), "--device", "cpu", "--batch-size", "5"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = results["scores"]
    assert {f"class_{method}_{source}" for method in ("probe", "knn") for source in scoring.SOURCES} <= set(
        scores
    )
    # The tokenizer's encoder is that from which it began: nothing can have changed.
    assert scores["class_zero_shot_after"] == scores["class_zero_shot_before"]
    assert scores["class_probe_after"] == scores["class_probe_before"] > 0.9
    assert results["details"]["after_less_before"]["class_probe"] == [0, 0, 0]
    assert results["counts"] == {"expected": 12, "scored": 12} and not results["partial"]
    assert results["details"]["chance"]["class"] <= 0.75 and len(results["model"]["before_sha256"]) == 64
    run.main([*words[:1], *words[3:], "--output", str(tmp_path / "out"), "--device", "cpu", "--limit", "8"])
    limited = json.loads((tmp_path / "out" / "results.json").read_text())
    assert limited["partial"] and "class_probe_before" not in limited["scores"]
    assert "zero-shot" in limited["settings"]["left_out"][0]


def test_bad_input_is_one_line(towers: Path, tmp_path: Path) -> None:
    good, classes, world = (
        str(towers / "vqrae"),
        make_classes(tmp_path / "in"),
        make_world(tmp_path / "world"),
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "world" / "val" / "more.png")
    (tmp_path / "loose").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "loose" / "a.png")
    one = tmp_path / "one" / "class"
    one.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (8, 8)).save(one / f"{number}.png")
    torn = tmp_path / "torn"
    (torn / "val").mkdir(parents=True)
    (torn / "val_scenes.jsonl").write_text('{"image": "val/0.png"}\n')
    cases = [
        ([good, "--images", str(tmp_path / "absent")], "absent"),
        ([good, "--images", str(tmp_path / "loose")], "a.png"),
        ([good, "--images", str(tmp_path / "one")], "class"),
        ([good, "--images", str(torn)], "val_scenes.jsonl"),
        ([good, "--images", str(world)], "val_scenes.jsonl"),
        ([good, "--images", str(classes), "--before", str(towers / "narrow")], "narrow"),
        ([good, "--images", str(classes), "--text-tower", str(towers / "tower")], "both towers"),
    ]
    for words, named in cases:
        with pytest.raises(UserError) as error:
            run.main([*words, "--output", str(tmp_path / "out"), "--device", "cpu"])
        assert named in str(error.value) and "\n" not in str(error.value), words
