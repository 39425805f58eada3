"""From a recipe to models: VQRAE, the teacher of its self-distillation, the discriminator; and to their engines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from common import dist
from common.errors import UserError, refusing
from common.models.encoder_loading import build_encoder, load_encoder
from common.models.strict_loading import check_architecture
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae, vqrae_on_meta
from common.training.engine import deepspeed_config, start_engine
from common.training.optim import cosine_factor, parameter_groups
from tokenizer.config import ModelConfig, TokenizerConfig
from tokenizer.discriminator import Discriminator


def assemble_model(config: TokenizerConfig) -> VQRAE:
    """The VQRAE that a run starts from, float32 on the CPU.

    Raises:
        UserError: encoder or checkpoint are absent, or of another architecture than the recipe states.
    """
    model = _former_model(config.init_from, config.model) if config.init_from else _fresh_model(config.model)
    _freeze(model, config.model)
    if config.engine.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _former_model(source: str, expected: ModelConfig) -> VQRAE:
    """The stage before; every field of the recipe's architecture must be the checkpoint's."""
    with refusing("init_from", UserError):
        model, _ = load_vqrae(source, expected.attn_implementation)
    tower, stated = model.config.encoder_config, expected.encoder.architecture
    check_architecture(tower, stated, source, "model.encoder.architecture.")
    fields = ("codebook_size", "codebook_dim", "output_patch_size", "gradient", "quantizer_layers")
    check_architecture(model.config, {key: getattr(expected, key) for key in fields}, source, "model.")
    return model


def assemble_teacher(model: VQRAE, config: TokenizerConfig) -> VisionEncoder | None:
    """A frozen copy of the encoder as it is now; None without distillation."""
    if not config.loss.teaches:
        return None
    teacher = copy.deepcopy(model.encoder)
    return teacher.requires_grad_(False).eval()


def assemble_discriminator(config: TokenizerConfig) -> Discriminator | None:
    if not config.loss.discriminator or config.loss.discriminator_model is None:
        return None
    return Discriminator(config.loss.discriminator_model)


def start_generator(model: VQRAE, config: TokenizerConfig) -> Any:
    """The engine around encoder, quantizer and decoder."""
    return _start_engine(model, generator_groups(model, config), config, config.steps)


def start_discriminator(critic: Discriminator, config: TokenizerConfig) -> Any:
    """The discriminator's engine: in float32 whatever the generator's precision is (decision 4). Its warm-up and cosine
    start at its first update, not at step 0 (decision 11)."""
    updates = config.steps - config.loss.first_discriminator_update
    exact = replace(config, engine=replace(config.engine, precision="fp32"))
    return _start_engine(critic, discriminator_groups(critic, config), exact, updates)


def _start_engine(model: nn.Module, groups: list[dict[str, Any]], config: TokenizerConfig, steps: int) -> Any:
    rates = config.optimizer
    settings = deepspeed_config(config.engine, config.batch, dist.world(), rates.adamw.max_grad_norm)

    def schedule(group: dict[str, Any]) -> Callable[[int], float]:
        return cosine_factor(group["lr"], rates.end_lr, rates.warmup_steps, steps)

    return start_engine(model, groups, schedule, rates.adamw.betas, rates.adamw.eps, settings)


def generator_groups(model: VQRAE, config: TokenizerConfig) -> list[dict[str, Any]]:
    """By role: the encoder, and everything else with the decoder's rate (decision 5)."""
    rates, decay = config.optimizer, config.optimizer.adamw.weight_decay
    groups = parameter_groups("decoder", [model.quantizer, model.decoder], rates.decoder_lr, decay)
    if not config.model.freeze_encoder and rates.encoder_lr is not None:
        groups += parameter_groups("encoder", [model.encoder], rates.encoder_lr, decay)
    return groups


def discriminator_groups(model: nn.Module, config: TokenizerConfig) -> list[dict[str, Any]]:
    rate = config.optimizer.discriminator_lr or 0.0
    return parameter_groups("discriminator", [model], rate, config.optimizer.adamw.weight_decay)


def _fresh_model(config: ModelConfig) -> VQRAE:
    architecture, attention = config.encoder.architecture, config.attn_implementation
    if config.encoder.source is None:
        encoder = build_encoder(architecture, attention)
    else:
        encoder = load_encoder(config.encoder.source, architecture, attention)
    sizes = (config.codebook_size, config.codebook_dim, config.output_patch_size)
    return VQRAE.from_encoder(
        encoder, *sizes, gradient=config.gradient, quantizer_layers=config.quantizer_layers
    )


def model_on_meta(config: ModelConfig) -> VQRAE:
    """The recipe's model without weights, to be counted; frozen where a run's is."""
    sizes = (config.codebook_size, config.codebook_dim, config.output_patch_size)
    model = vqrae_on_meta(config.encoder.architecture, *sizes, quantizer_layers=config.quantizer_layers)
    _freeze(model, config)
    return model


def _freeze(model: VQRAE, config: ModelConfig) -> None:
    model.encoder.requires_grad_(not config.freeze_encoder)
    model.encoder.freeze_unread()
