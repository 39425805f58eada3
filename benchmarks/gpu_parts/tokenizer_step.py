"""A step of the tokenizer at so400m, 256 px: `--variant stage1` or `stage2`, as `tokenizer/train.py` takes it.

The recipe's model with random weights, its engines, objective, discriminator and moving average. The perceptual
networks have the recipe's architecture and random weights too, which cost the same. Pixels are random and in memory:
what decoding costs is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.gpu_parts.part import Request, Row, run
from benchmarks.gpu_parts.timing import time_steps
from common import dist
from common.config import load_config
from common.data.images import to_float
from common.training.ema import ShardedEMA
from tokenizer import assemble
from tokenizer.config import TokenizerConfig
from tokenizer.efficiency import image_flops
from tokenizer.losses import LeCam
from tokenizer.objective import GeneratorObjective, discriminator_objective
from tokenizer.perceptual import ConvNextLogits, Lpips, Perceptual, RandomFeatures

RECIPE = "tokenizer/recipes/siglip2_so400m_256_{stage}.yaml"
BATCHES = 4  # different ones, taken in turns
CHECK = (
    *(f"model.encoder.architecture.{field}" for field in ("hidden_size=16", "intermediate_size=32")),
    *(f"model.encoder.architecture.{field}" for field in ("num_hidden_layers=1", "num_attention_heads=2")),
    *(f"model.encoder.architecture.{field}" for field in ("image_size=16", "patch_size=4")),
    *("model.codebook_size=32", "model.codebook_dim=16", "model.output_patch_size=4", "data.image_size=16"),
)


def measure(request: Request) -> list[Row]:
    config = recipe(request)
    device = dist.start()
    torch.manual_seed(config.seed)
    perceptual = random_perceptual(request.check).to(device) if config.loss.perceptual else None
    counted = image_flops(config, perceptual)
    size = config.batch.micro_size
    return [
        time_steps(
            f"tokenizer, {request.variant}, so400m, {config.data.image_size} px",
            training_step(config, perceptual, device),
            device,
            unit="images",
            amount=size,
            batch=size,
            flops=size * (counted.generator + counted.felt + counted.learning),
            note="random weights and pixels; MFU counts the networks of the losses too",
            check=request.check,
        )
    ]


def recipe(request: Request) -> TokenizerConfig:
    """The paper's, on one GPU, without accumulation, from random weights; both players from the first step on."""
    path = RECIPE.format(stage=request.variant)
    size = 2 if request.check else load_config(TokenizerConfig, path).batch.micro_size // request.shrink
    overrides = ["init_from=null", "model.encoder.source=null"]
    overrides += [f"batch.global_size={size}", f"batch.micro_size={size}"]
    stated = load_config(TokenizerConfig, path)
    if stated.loss.discriminator:
        overrides += ["loss.discriminator_start=0", "loss.discriminator_update_start=0"]
    if request.check:
        overrides += CHECK
        if stated.loss.discriminator:
            overrides += ["loss.discriminator_model={width: 8, stages: 1, pool: 2, norm_groups: 4}"]
    return load_config(TokenizerConfig, path, overrides)


def training_step(
    config: TokenizerConfig, perceptual: nn.Module | None, device: torch.device
) -> Callable[[], None]:
    """One optimizer step of `tokenizer/train.py`, from pixels that are in the host's memory."""
    with device:
        model = assemble.assemble_model(config)
        critic = assemble.assemble_discriminator(config)
    teacher = assemble.assemble_teacher(model, config)
    generator = assemble.start_generator(model, config)
    discriminator = assemble.start_discriminator(critic, config) if critic is not None else None
    lecam, ema = LeCam().to(device), ShardedEMA(model) if config.ema else None
    objective = GeneratorObjective(config.loss, model, teacher, perceptual, config.engine.precision)
    batches = random_pixels(config, device)
    turn = 0

    def step() -> None:
        nonlocal turn
        pixels = to_float(batches[turn % BATCHES].to(device, non_blocking=True))
        turn += 1
        output = generator(pixels, quantize=config.model.quantize)
        reconstruction = output.reconstruction.float()
        fake = None
        if critic is not None:
            critic.requires_grad_(False)
            fake = critic(reconstruction)
        loss, _ = objective(output, pixels, fake)
        generator.backward(loss)
        generator.step()
        if discriminator is not None:
            discriminator.module.requires_grad_(True)
            logits = discriminator(torch.cat([pixels, reconstruction.detach()]))
            real, fake = logits.chunk(2)
            loss, _ = discriminator_objective(real, fake, lecam, config.loss.lecam)
            discriminator.backward(loss)
            discriminator.step()
            lecam.update()
        if ema is not None:
            ema.update()

    return step


def random_pixels(config: TokenizerConfig, device: torch.device) -> list[torch.Tensor]:
    """uint8 (B, 3, S, S) each, pinned where there is a GPU, as the loader gives them."""
    shape = (config.batch.micro_size, 3, config.data.image_size, config.data.image_size)
    batches = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(BATCHES)]
    return [batch.pin_memory() for batch in batches] if device.type == "cuda" else batches


def random_perceptual(check: bool) -> nn.Module:
    """LPIPS and ConvNeXt-S as in the recipe, of random weights."""
    if check:
        return Perceptual([(1.0, RandomFeatures())])
    import lpips
    import timm

    vgg = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    convnext = timm.create_model("convnext_small", pretrained=False, num_classes=1000)
    return Perceptual([(1.0, Lpips(vgg)), (0.1, ConvNextLogits(convnext))])


if __name__ == "__main__":
    run(measure)
