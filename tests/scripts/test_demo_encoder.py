"""The demo's encoder and the linear probe that looks into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import contrastive
import numpy as np
import probe
import pytest
import scenes
import torch
import world
from captions import describe
from pretrain_encoder import save_vision_part


def test_the_probe_reads_what_is_in_the_features(world_folder: Path) -> None:
    """Features that are the patches' own pixels tell colours; constant features tell nothing."""
    training = world.read_world(world_folder, "train")
    pixels = torch.nn.functional.pixel_unshuffle(training.images.float(), 4).flatten(2).transpose(1, 2)
    fitted = probe.fit_probe(pixels, training.scenes)
    seen = fitted.accuracy(pixels, training.scenes)
    assert seen["color"] > 0.95 and seen["mean"] == pytest.approx((seen["color"] + seen["shape"]) / 2)
    assert fitted.accuracy(torch.zeros_like(pixels), training.scenes)["color"] < 0.4


def test_object_features_weigh_tokens_by_their_share_of_the_box(two_things: scenes.Scene) -> None:
    scene = replace(
        two_things, things=two_things.things[:1]
    )  # a box of 11 px from (2, 3): columns 2..12, rows 3..13
    features = torch.arange(64.0).reshape(1, 64, 1)
    columns, rows = torch.tensor([2.0, 4.0, 4.0, 1.0]), torch.tensor([1.0, 4.0, 4.0, 2.0])
    expected = (rows @ torch.arange(4.0) * 8 + columns @ torch.arange(4.0)) / 11
    assert probe.object_features(features, [scene]).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="square grid"):
        probe.object_features(torch.zeros(1, 60, 1), [scene])


def test_windows_are_the_picture_s_own_patches(world_folder: Path) -> None:
    """A window beside its positions gives what the whole picture's embedding gives at those places."""
    training = world.read_world(world_folder, "train")
    torch.manual_seed(0)
    vision = contrastive.build_model(32).vision_model
    windows, positions, ids = next(contrastive.window_batches(training, 8, np.random.default_rng(0)))
    embedded = vision.embeddings.patch_embedding(windows).flatten(2).transpose(1, 2)
    embedded = embedded + vision.embeddings.position_embedding(positions)
    whole = vision.embeddings(contrastive.to_pixels(training.images))
    matches = [
        (whole[:, places] - part).abs().amax((1, 2)).min()
        for places, part in zip(positions, embedded, strict=True)
    ]
    assert max(matches) < 1e-5
    assert (ids[:, -1] == 0).all() and (ids[:, 0] > 0).all()


def test_descriptions_fit_the_text_tower(many_scenes: list[scenes.Scene]) -> None:
    rng = np.random.default_rng(0)
    ids = contrastive.tokenize([describe(scene, rng) for scene in many_scenes])
    assert (ids[:, -1] == 0).all()
    # What is left out says nothing: as many shapes and colours remain as there are objects.
    shapes = torch.isin(ids, torch.tensor([contrastive.TOKEN[shape] for shape in scenes.SHAPES])).sum(1)
    assert shapes.tolist() == [len(scene.things) for scene in many_scenes]


def test_pretraining_learns_and_saves_a_plain_vision_model(world_folder: Path, tmp_path: Path) -> None:
    from transformers import SiglipVisionModel

    training = world.read_world(world_folder, "train")
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        model = contrastive.build_model(32)
        images = contrastive.to_pixels(training.images[:4])
        first = model.vision_model(images, output_hidden_states=True).hidden_states[-1]
        loss = contrastive.train(model, training, steps=(2, 1), lr=1e-3, seed=0, bf16=False)
        assert np.isfinite(loss)
        weights.append(model.vision_model.embeddings.patch_embedding.weight.detach().clone())
    assert torch.equal(*weights)
    save_vision_part(model, tmp_path, 32)
    loaded = SiglipVisionModel.from_pretrained(tmp_path).eval()
    expected = model.vision_model(images, output_hidden_states=True).hidden_states[-1]
    actual = loaded(images, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(actual, expected, atol=1e-5) and not torch.allclose(first, expected)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert processor["size"] == {"height": 32, "width": 32}
