"""What training looks at beside PSNR, and in which precision its discriminator does: a GAN to be judged as it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy import linalg
from torch import Tensor, nn

from common.config import ConfigError
from common.data.corrupt import CorruptCounter
from common.data.images import to_float
from common.errors import UserError
from common.training.records import read_records
from tokenizer import assemble, distances, held_out
from tokenizer.discriminator import Discriminator
from tokenizer.perceptual import Lpips, Perceptual, RandomFeatures
from tokenizer.train import train

BOTH = "evaluation.distances=[random_features, frechet_encoder]"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    (a, s), (b, t) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (one, other))
    return float(((a - b) ** 2).sum() + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real))


def test_the_held_out_set_is_measured_by_the_encoder_that_the_run_started_from(
    pictures: Path, tmp_path: Path
) -> None:
    """In a recipe where the encoder learns, and without a teacher to lend its own."""
    config = tiny.tokenizer_recipe(
        pictures, tmp_path, *tiny.STAGE_2, "loss.distillation=0.0", BOTH, "evaluation.limit=12"
    )
    torch.manual_seed(0)
    model = assemble.assemble_model(config)
    looked_through = distances.build_distances(config, model, None, None, CPU)
    start = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # as if it had learned
    scores = held_out.evaluate(model, config, CPU, looked_through)

    encoder = assemble.assemble_model(config).encoder
    encoder.load_state_dict(start)
    features: list[list[Tensor]] = [[], []]
    apart = []
    with torch.no_grad():
        for pixels in held_out.held_out_batches(config, CPU, CorruptCounter(1.0)):
            rebuilt = model.eval()(pixels).reconstruction.clamp(0, 1).mul(255).round().div(255)
            for kept, shown in zip(features, (pixels, rebuilt), strict=True):
                kept.append(encoder(shown).mean(dim=1))
            apart.append(RandomFeatures()(rebuilt, pixels))
    real, fake = (torch.cat(kept).double().numpy() for kept in features)
    assert scores["frechet_encoder"] == pytest.approx(frechet(real, fake), rel=1e-3, abs=1e-6)
    assert scores["frechet_encoder"] > 0
    assert scores["random_features"] == pytest.approx(float(torch.cat(apart).mean()), rel=1e-4)
    assert "rfid" not in scores and "lpips" not in scores


def test_a_frozen_encoder_and_a_teacher_serve_without_a_copy(pictures: Path, tmp_path: Path) -> None:
    frozen = tiny.tokenizer_recipe(pictures, tmp_path, BOTH)
    model = assemble.assemble_model(frozen)
    (own,) = distances.build_distances(frozen, model, None, None, CPU).of_sets.values()
    assert own.encoder is model.encoder
    learning = tiny.tokenizer_recipe(pictures, tmp_path, *tiny.STAGE_2, BOTH)
    model = assemble.assemble_model(learning)
    teacher = assemble.assemble_teacher(model, learning)
    (lent,) = distances.build_distances(learning, model, teacher, None, CPU).of_sets.values()
    assert lent.encoder is teacher
    assert any(parameter.requires_grad for parameter in model.encoder.parameters())  # looking freezes nothing


def test_lpips_looks_through_the_losss_own_network_and_rfid_through_the_named_file(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, str]] = []

    def inception(weights: Any, option: str) -> nn.Module:
        asked.append((weights, option))
        return nn.Identity()

    monkeypatch.setattr(distances, "load_inception_fid", inception)
    config = tiny.tokenizer_recipe(
        pictures, tmp_path, "evaluation.distances=[lpips, rfid]", "evaluation.inception_weights=i.pth"
    )
    lpips = Lpips(nn.Module())
    built = distances.build_distances(
        config, assemble.assemble_model(config), None, Perceptual([(1.0, lpips)]), CPU
    )
    assert built.of_pictures == {"lpips": lpips} and set(built.of_sets) == {"rfid"}
    assert asked == [("i.pth", "evaluation.inception_weights")]


def test_weights_that_are_not_there_end_the_run_before_it_begins(pictures: Path, tmp_path: Path) -> None:
    overrides = ("evaluation.distances=[rfid]", "evaluation.inception_weights=gone.pth")
    with pytest.raises(UserError, match=r"gone.pth: no such file; evaluation.inception_weights must name"):
        train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *overrides))
    with pytest.raises(ConfigError, match=r"evaluation.distances.0: .*frechet_encoder"):
        tiny.tokenizer_recipe(pictures, tmp_path / "run", "evaluation.distances=[fid]")


def test_one_picture_has_no_distance_of_sets(pictures: Path, tmp_path: Path) -> None:
    config = tiny.tokenizer_recipe(pictures, tmp_path, BOTH, "evaluation.limit=1")
    model = assemble.assemble_model(config)
    built = distances.build_distances(config, model, None, None, CPU)
    with pytest.raises(UserError, match=r"evaluation.images: frechet_encoder needs at least two images"):
        held_out.evaluate(model, config, CPU, built)


def test_the_discriminator_sees_and_learns_in_float32(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both what the generator feels and its own step, in a run whose generator is in bfloat16."""
    original, seen = Discriminator.forward, []

    def forward(self: Discriminator, pixels: Tensor) -> Tensor:
        logits = original(self, pixels)
        products = torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype  # bfloat16 inside autocast
        seen.append((pixels.dtype, logits.dtype, products, next(self.parameters()).requires_grad))
        return logits

    monkeypatch.setattr(Discriminator, "forward", forward)
    overrides = (*tiny.STAGE_2, "steps=3", "engine.precision=bf16_autocast", "evaluation.images=null")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", *overrides))
    assert {kinds[:3] for kinds in seen} == {(torch.float32,) * 3}
    assert {kinds[3] for kinds in seen} == {True, False}  # learning, and felt


def test_a_run_shows_the_distances(pictures: Path, tmp_path: Path) -> None:
    train(tiny.tokenizer_recipe(pictures, tmp_path / "run", BOTH, "ema=true"))
    last = read_records(tmp_path / "run", "evaluation")[-1]
    assert last["frechet_encoder"] > 0 and last["random_features"] > 0


def test_uint8_pictures_are_read_as_the_encoder_reads_them(pictures: Path, tmp_path: Path) -> None:
    config = tiny.tokenizer_recipe(pictures, tmp_path, BOTH)
    model = assemble.assemble_model(config)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    (features,) = distances.build_distances(config, model, None, None, CPU).of_sets.values()
    torch.testing.assert_close(features(images), model.encoder(to_float(images)).mean(dim=1))
    assert features.num_features == 16
