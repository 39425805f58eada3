"""Two engines side by side do what plain torch would: an independent statement of stage 2's loop."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch

from common.data.images import to_float
from common.data.stream import training_loader
from common.models.vqrae import VQRAE
from tokenizer import assemble, losses
from tokenizer.train import train


def rate(step: int, peak: float, end: float, warmup: int, total: int) -> float:
    if step < warmup:
        return peak * step / warmup
    done = torch.tensor((step - warmup) / (total - warmup) * torch.pi)
    return end + (peak - end) * float(1 + done.cos()) / 2


def test_stage_2_equals_plain_torch(tmp_path: Path) -> None:
    pictures = tiny.write_pictures(tmp_path / "pictures")
    train(tiny.tokenizer_recipe(pictures, tmp_path / "start", "steps=1"))
    overrides = [
        f"init_from={tmp_path / 'start' / 'model'}",
        *tiny.STAGE_2,
        "ema=false",
        "batch.micro_size=4",
    ]
    config = tiny.tokenizer_recipe(pictures, tmp_path / "run", *overrides, "loss.perceptual=0.0")
    train(config)

    torch.manual_seed(config.seed)
    model = assemble.assemble_model(config)
    teacher = assemble.assemble_teacher(model, config)
    critic = assemble.assemble_discriminator(config)
    assert teacher is not None and critic is not None
    groups = assemble.generator_groups(model, config)
    ours = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    theirs = torch.optim.AdamW(assemble.discriminator_groups(critic, config), betas=(0.9, 0.999))
    peaks = [group["lr"] for group in ours.param_groups]
    lecam, weights = losses.LeCam(), config.loss
    batches = iter(training_loader(config.data, config.seed, 0, 1, 4, 0))
    for step in range(config.steps):
        pixels = to_float(next(batches)["pixels"])
        out = model(pixels)
        loss = (out.reconstruction - pixels).square().mean() + out.codebook_loss + 0.25 * out.commitment_loss
        loss = loss + (out.features - teacher(pixels).detach()).square().mean()
        if step >= 2:
            loss = loss - weights.discriminator * critic(out.reconstruction).mean()
        ours.zero_grad()
        loss.backward()
        for group, peak in zip(ours.param_groups, peaks, strict=True):
            group["lr"] = rate(step, peak, 1e-4, 2, config.steps)
        torch.nn.utils.clip_grad_norm_([p for group in ours.param_groups for p in group["params"]], 1.0)
        ours.step()
        if step >= 1:
            real, fake = critic(torch.cat([pixels, out.reconstruction.detach()])).chunk(2)
            hinge = ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2
            theirs.zero_grad()
            (hinge + weights.lecam * lecam.penalty(real, fake)).backward()
            lecam.update()
            for group in theirs.param_groups:
                group["lr"] = rate(step - 1, 1e-3, 1e-4, 2, config.steps - 1)
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            theirs.step()

    trained = VQRAE.from_pretrained(tmp_path / "run" / "model").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            trained[name], tensor, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
