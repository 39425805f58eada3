"""From a recipe to models: VQRAE, the teacher of its self-distillation, the discriminator, and their groups."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError, one_line
from common.models.encoder_loading import build_encoder, load_encoder
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE, VQRAEConfig
from common.training.optim import parameter_groups
from tokenizer.config import ModelConfig, TokenizerConfig
from tokenizer.discriminator import Discriminator


def assemble_model(config: TokenizerConfig) -> VQRAE:
    """The VQRAE that a run starts from, float32 on the CPU.

    Raises:
        UserError: encoder or checkpoint are absent, or of another architecture than the recipe states.
    """
    model = load_vqrae(config.init_from, config.model) if config.init_from else _fresh_model(config.model)
    model.encoder.requires_grad_(not config.model.freeze_encoder)
    model.encoder.freeze_unread()
    if config.engine.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def load_vqrae(folder: str, expected: ModelConfig) -> VQRAE:
    """A saved VQRAE, strictly: the recipe's architecture and every weight, neither more nor less.

    Raises:
        UserError: no VQRAE there, or another one than the recipe states.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise UserError(f"{folder}: init_from: no VQRAE there (no config.json); expected a run's `model` folder")
    try:
        found = VQRAEConfig.from_pretrained(folder)
        if found.model_type != "vqrae" or "codebook_size" not in found.to_diff_dict():
            raise UserError(f"{folder}: init_from: config.json: model_type: expected vqrae")
        check_vqrae(found, expected, folder)
        model, report = VQRAE.from_pretrained(
            folder, attn_implementation=expected.attn_implementation, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder}: init_from: cannot be loaded: {one_line(error)}") from error
    wrong = {kind: names for kind, names in report.items() if kind != "error_msgs" and names}
    if wrong:
        kind, names = next(iter(wrong.items()))
        raise UserError(f"{folder}: init_from: {kind.replace('_', ' ')}: {len(names)}, the first is {sorted(names)[0]}")
    return model.float()


def check_vqrae(found: VQRAEConfig, expected: ModelConfig, folder: str) -> None:
    """Raises `UserError` at the first field in which a checkpoint differs from the recipe."""
    tower = found.encoder_config
    pairs: dict[str, tuple[Any, Any]] = {
        f"model.encoder.architecture.{key}": (value, getattr(tower, key, None))
        for key, value in expected.encoder.architecture.items()
    }
    for key in ("codebook_size", "codebook_dim", "output_patch_size", "gradient"):
        pairs[f"model.{key}"] = (getattr(expected, key), getattr(found, key))
    for key, (stated, there) in pairs.items():
        there = there[0] if isinstance(there, (list, tuple)) else there
        if stated != there:
            raise UserError(f"{folder}: {key}: the recipe states {stated!r}, the checkpoint has {there!r}")


def assemble_teacher(model: VQRAE, config: TokenizerConfig) -> VisionEncoder | None:
    """A frozen copy of the encoder as it is now; None without distillation."""
    if not config.loss.distillation:
        return None
    teacher = copy.deepcopy(model.encoder)
    return teacher.requires_grad_(False).eval()


def assemble_discriminator(config: TokenizerConfig) -> Discriminator | None:
    if not config.loss.discriminator or config.loss.discriminator_model is None:
        return None
    return Discriminator(config.loss.discriminator_model)


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
    return VQRAE.from_encoder(
        encoder, config.codebook_size, config.codebook_dim, config.output_patch_size, gradient=config.gradient
    )


def model_on_meta(config: ModelConfig) -> VQRAE:
    """The recipe's model without weights, to be counted."""
    with torch.device("meta"):
        encoder = build_encoder(config.encoder.architecture)
        return VQRAE(
            VQRAEConfig(
                encoder_config=encoder.model.config,
                codebook_size=config.codebook_size,
                codebook_dim=config.codebook_dim,
                output_patch_size=config.output_patch_size,
            )
        )
