"""The demo's encoder and the linear probe that looks into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evals.detectors import world_shapes
from scripts.demo import contrastive, contrastive_views, probe, scenes, world
from scripts.demo.captions import describe
from scripts.demo.pretrain_encoder import save_vision_part


def test_the_probe_reads_what_is_in_the_features(world_folder: Path) -> None:
    """Features that are the patches' own pixels tell colours; constant features tell nothing."""
    training = world.read_world(world_folder, "train")
    pixels = torch.nn.functional.pixel_unshuffle(training.images.float(), 4).flatten(2).transpose(1, 2)
    fitted = probe.fit_probe(pixels, training.scenes)
    seen = fitted.accuracy(pixels, training.scenes)
    assert seen["color"] > 0.95 and seen["mean"] == pytest.approx((seen["color"] + seen["shape"]) / 2)
    assert fitted.accuracy(torch.zeros_like(pixels), training.scenes)["color"] < 0.4


def test_object_features_weigh_tokens_by_their_share_of_the_box(two_things: scenes.Scene) -> None:
    # A box of 11 px from (2, 3): columns 2..12, rows 3..13.
    scene = replace(two_things, things=two_things.things[:1])
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
    views = next(contrastive_views.window_batches(training, 8, np.random.default_rng(0)))
    embedded = vision.embeddings.patch_embedding(views.pixels).flatten(2).transpose(1, 2)
    embedded = embedded + vision.embeddings.position_embedding(views.positions)
    whole = vision.embeddings(contrastive_views.to_pixels(training.images))
    matches = [
        (whole[:, places] - part).abs().amax((1, 2)).min()
        for places, part in zip(views.positions, embedded, strict=True)
    ]
    assert max(matches) < 1e-5
    assert (views.objects[:, -1] == 0).all() and (views.objects[:, 0] > 0).all()
    # A window holds its object whole: the covered shares of patches of 16 square px add up to the box.
    area = (views.covered.sum(1) * 16).round()
    assert {int(size) for size in area.sqrt()} <= set(range(9, 14)) and (area.sqrt() % 1 == 0).all()


def test_whole_pictures_are_encoded_as_transformers_does(world_folder: Path) -> None:
    training = world.read_world(world_folder, "train")
    torch.manual_seed(0)
    model = contrastive.build_model(32)
    views = next(contrastive_views.picture_batches(training, 8, np.random.default_rng(0)))
    expected = model.vision_model(views.pixels).last_hidden_state
    assert torch.allclose(
        contrastive.encode_patches(model, views.pixels, views.positions), expected, atol=1e-5
    )
    assert views.descriptions is not None and len(views.descriptions) == 8
    assert len(views.objects) == len(views.rows) == len(views.covered)
    assert views.covered.shape[1] == 64 and int(views.rows.max()) == 7


def test_coverage_is_the_share_of_each_patch(two_things: scenes.Scene) -> None:
    circle, square = contrastive_views.coverage(two_things.things, 32).reshape(2, 8, 8)
    assert circle[0, 0] == 2 / 4 * 1 / 4 and circle[1, 1] == 1 and circle[3, 3] == 2 / 4 * 1 / 4
    assert circle.sum() * 16 == 11**2 and square.sum() * 16 == 10**2 and not (circle * square).any()


def test_patches_learn_their_own_object_s_words(
    two_things: scenes.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head whose output fits exactly the words of the object that a patch shows has the least loss."""
    monkeypatch.setattr(contrastive, "BACKGROUND", 1e6)  # every empty patch
    torch.manual_seed(0)
    model = contrastive.build_model(32)
    names = ["large red circle top left", "blue square bottom right"]
    views = contrastive_views.Views(
        pixels=torch.zeros(1, 3, 32, 32),
        positions=torch.arange(64)[None],
        descriptions=None,
        objects=contrastive_views.tokenize(names, contrastive_views.OBJECT_LENGTH),
        rows=torch.zeros(2, dtype=torch.long),
        covered=contrastive_views.coverage(two_things.things, 32),
    )
    seen = {}

    def record(
        model: object, images: torch.Tensor, texts: torch.Tensor, true: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        seen["true"] = true
        return images.sum() * 0

    monkeypatch.setattr(contrastive, "sigmoid_loss", record)
    contrastive.patch_loss(model, torch.zeros(1, 64, 128), views)
    covered = views.covered > contrastive.COVERED
    expected = [
        [word in names[0].split()] * int(covered[0].sum())
        + [word in names[1].split()] * int(covered[1].sum())
        for word in contrastive_views.WORDS
    ]
    shown = int(covered.sum())
    assert seen["true"][:, :shown].tolist() == expected
    empty = int((views.covered.sum(0) == 0).sum())
    assert seen["true"].shape[1] == shown + empty and not seen["true"][:, shown:].any()


def test_descriptions_fit_the_text_tower(many_scenes: list[scenes.Scene]) -> None:
    rng = np.random.default_rng(0)
    ids = contrastive_views.tokenize([describe(scene, rng) for scene in many_scenes])
    assert (ids[:, -1] == 0).all()
    # What is left out says nothing: as many shapes and colours remain as there are objects.
    shapes = torch.isin(
        ids, torch.tensor([contrastive_views.TOKEN[shape] for shape in world_shapes.SHAPES])
    ).sum(1)
    assert shapes.tolist() == [len(scene.things) for scene in many_scenes]


def test_pretraining_learns_and_saves_a_plain_vision_model(world_folder: Path, tmp_path: Path) -> None:
    from transformers import SiglipVisionModel

    training = world.read_world(world_folder, "train")
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        model = contrastive.build_model(32)
        images = contrastive_views.to_pixels(training.images[:4])
        first = model.vision_model(images, output_hidden_states=True).hidden_states[-1]
        loss = contrastive.train(model, training, steps=(2, 1), lr=1e-3, seed=0, bf16=False)
        assert np.isfinite(loss)
        weights.append(model.vision_model.embeddings.patch_embedding.weight.detach().clone())
    assert torch.equal(*weights)
    save_vision_part(model, tmp_path)
    loaded = SiglipVisionModel.from_pretrained(tmp_path).eval()
    expected = model.vision_model(images, output_hidden_states=True).hidden_states[-1]
    actual = loaded(images, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(actual, expected, atol=1e-5) and not torch.allclose(first, expected)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert processor["size"] == {"height": 32, "width": 32}
