"""Two engines side by side do what plain torch would: an independent statement of stage 2's loop, which builds nothing
with the trainer's own hands but the networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from plain_torch import PlainAdamW, cosine
from torch import Tensor

from common.data.images import to_float
from common.data.stream import training_loader
from common.models.vqrae import VQRAE
from tokenizer import assemble
from tokenizer.discriminator import Discriminator
from tokenizer.perceptual import build_perceptual
from tokenizer.train import train

# None of them the tiny recipe's own, nor equal to another.
UNUSUAL = (
    "steps=7",
    "optimizer.encoder_lr=5e-4",
    "optimizer.decoder_lr=2e-3",
    "optimizer.discriminator_lr=3e-3",
    "optimizer.end_lr=2e-4",
    "optimizer.warmup_steps=3",
    "optimizer.adamw={betas: [0.8, 0.95], weight_decay: 0.3, eps: 1e-6, max_grad_norm: 0.4}",
    "loss.reconstruction=1.5",
    "loss.codebook=0.7",
    "loss.commitment=0.3",
    "loss.perceptual=0.6",
    "loss.distillation=4.0",
    "loss.discriminator=0.2",
    "loss.lecam=0.5",
    "loss.discriminator_start=3",
    "loss.discriminator_update_start=1",
    "evaluation.images=null",
)


def test_stage_2_equals_plain_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = tiny.write_pictures(tmp_path / "pictures")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "start", "steps=1"))
    start = f"init_from={tmp_path / 'start' / 'model'}"
    config = tiny.tokenizer_recipe(pictures, tmp_path / "run", start, *tiny.STAGE_2, *UNUSUAL)
    critics, start_discriminator = [], assemble.start_discriminator

    def keep(critic: Any, config: Any) -> Any:
        critics.append((critic, copy.deepcopy(critic)))
        return start_discriminator(critic, config)

    monkeypatch.setattr(assemble, "start_discriminator", keep)
    train(config)
    ((theirs, critic),) = critics
    averages = plain_loop(config, critic, VQRAE.from_pretrained(tmp_path / "start" / "model").train())

    trained = VQRAE.from_pretrained(tmp_path / "run" / "model").state_dict()
    for found, expected in ((trained, averages), (theirs.state_dict(), critic.state_dict())):
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
            )


def rate(peak: float, total: int) -> Callable[[int], float]:
    return lambda step: cosine(step, peak, 2e-4, 3, total)


def plain_loop(config: Any, critic: Discriminator, model: VQRAE) -> dict[str, Tensor]:
    """Trains `critic` and `model`; the moving average of the latter's state."""
    teacher = copy.deepcopy(model.encoder).requires_grad_(False)
    perceptual = build_perceptual(config.loss.perceptual_model, torch.device("cpu"))
    for part in (model.encoder.model.head, model.encoder.model.post_layernorm):  # nothing reads them
        if part is not None:
            part.requires_grad_(False)
    parts = [(model.encoder, 5e-4), (model.quantizer, 2e-3), (model.decoder, 2e-3)]
    ours = PlainAdamW([(part, rate(peak, 7)) for part, peak in parts])
    other = PlainAdamW([(critic, rate(3e-3, 7 - 1))])
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema_real = ema_fake = torch.zeros(())
    batches = iter(training_loader(config.data, config.seed, 0, 1, 2, 0))
    for step in range(7):
        means = []
        for _ in range(2):
            pixels = to_float(next(batches)["pixels"])
            out = model(pixels)
            loss = 1.5 * (out.reconstruction - pixels).square().mean()
            loss = loss + 0.7 * out.codebook_loss + 0.3 * out.commitment_loss
            loss = loss + 0.6 * perceptual(out.reconstruction, pixels)
            loss = loss + 4.0 * (out.features - teacher(pixels)).square().mean()
            if step >= 3:
                critic.requires_grad_(False)
                loss = loss - 0.2 * critic(out.reconstruction).mean()
                critic.requires_grad_(True)
            (loss / 2).backward()
            if step >= 1:
                real, fake = critic(torch.cat([pixels, out.reconstruction.detach()])).chunk(2)
                hinge = ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2
                lecam = (real.mean() - ema_fake).relu() ** 2 + (ema_real - fake.mean()).relu() ** 2
                ((hinge + 0.5 * lecam) / 2).backward()
                means.append(torch.stack([real.mean(), fake.mean()]).detach())
        ours.step()
        if means:
            other.step()
            real_mean, fake_mean = torch.stack(means).mean(0)
            ema_real, ema_fake = 0.999 * ema_real + 0.001 * real_mean, 0.999 * ema_fake + 0.001 * fake_mean
        decay = min(0.999, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * tensor
    return average
