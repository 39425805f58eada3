"""From a recipe to what learns: a trained generator as a policy, its reference, and the engine."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from common.errors import UserError, refusing
from common.models.strict_loading import check_architecture
from common.models.weight_files import state_sha256
from generation.assemble import assemble_vqrae, start_language_model
from generation.model_folder import GeneratorFolder, load_generator
from generation.sampling_file import OF_A_RECIPE
from post_training.config import PostTrainingConfig
from post_training.methods.contract import Method
from post_training.policy import Policy


def assemble_generator(config: PostTrainingConfig) -> GeneratorFolder:
    """The generator that a run starts from, float32 on the CPU, with the recipe's settings of drawing.

    Raises:
        UserError: it is absent, damaged, of another architecture than the recipe states, or writes the codes of another
            VQRAE than `model.tokenizer.source`.
    """
    source, stated = config.init_from, config.model
    with refusing("init_from", UserError):
        generator = load_generator(source, torch.float32, stated.attn_implementation)
    vocabulary = generator.vocabulary
    check_vqrae(config, generator)
    architecture = {key: value for key, value in stated.architecture.items() if key != "vocab_size"}
    check_architecture(generator.model.config, architecture, f"init_from: {source}")
    for field, said, found in (
        ("text_vocabulary", stated.text_vocabulary, vocabulary.offset),
        ("image_size", stated.image_size, vocabulary.image_size),
        ("max_length", stated.max_length, vocabulary.max_length),
    ):
        if said != found:
            raise UserError(
                f"init_from: {source}: model.{field}: the recipe states {said}, the generator has {found}"
            )
    if config.engine.activation_checkpointing:
        generator.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    generator.vqrae.eval().requires_grad_(False)
    return dataclasses.replace(generator, sampling=config.samples.sampling, origin=OF_A_RECIPE)


def check_vqrae(config: PostTrainingConfig, generator: GeneratorFolder) -> None:
    """Raises:
    UserError: `model.tokenizer.source` is absent, or another VQRAE than the generator's.
    """
    named = f"model.tokenizer.source: {config.model.tokenizer.source}"
    own = assemble_vqrae(config.model.as_trained())
    generator.vocabulary.check_vqrae(state_sha256(own.state_dict()), named)


def assemble_policy(config: PostTrainingConfig, generator: GeneratorFolder, method: Method) -> Policy:
    """The generator as it draws rollouts."""
    rollouts = config.rollouts
    return Policy(
        generator.model, generator.vocabulary, rollouts.cfg_scale, rollouts.temperature, method.entropy_learns
    )


def assemble_reference(config: PostTrainingConfig, policy: Policy, device: torch.device) -> Policy:
    """The policy as it is now, frozen; to be made before the engine, and in its precision."""
    model = copy.deepcopy(policy.language_model).to(device).eval().requires_grad_(False)
    if config.engine.precision == "bf16":
        to_bf16(model)
    return Policy(model, policy.vocabulary, policy.scale, policy.temperature).eval()


def to_bf16(model: torch.nn.Module) -> None:
    """Parameters alone, as the engine casts them: buffers (rotary frequencies) stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()


def start_policy(policy: Policy, config: PostTrainingConfig) -> Any:
    """The engine around the policy."""
    return start_language_model(policy, config.optimizer, config.engine, config.update_batch, config.steps)


def check_former(now: str, source: str) -> Callable[[str, str], None]:
    """Whether `init_from` still is what a run began with, since its reference comes from there at each start.

    Args:
        now: the hash of the weights there.
    """

    def check(saved: str, checkpoint: str) -> None:
        if saved != now:
            raise UserError(
                f"{checkpoint}: init_from: {source}: holds other weights than this run began with (sha256 "
                f"{now[:12]}..., then {saved[:12]}...)"
            )

    return check
