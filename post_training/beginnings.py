"""What a post-training will touch, tried before anything slow; and what of its recipe is hardly meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common import dist
from common.benchmark_prompts import hashed
from common.errors import UserError, refusing
from common.text import shown
from common.training.beginnings import schedule_warnings, try_model, try_room, try_run
from common.training.plan import checkpoint_bytes
from evals.scorers.opening import check_there
from evals.scorers.prompts import ScoredPrompt, barred_prompts, read_scored_prompts
from generation.assemble import generator_on_meta
from post_training.config import PostTrainingConfig
from post_training.prompts import Dealer, tag_of


def begin(run: Path, config: PostTrainingConfig) -> list[str]:
    """Try everything, on all ranks together; returns what is to be told.

    Raises:
        UserError: something is not there or does not fit, cannot be written, or there is no room for it.
    """
    check_ranks(config, dist.world())
    try_run(run, config.logging)
    try_model("init_from", config.init_from)
    try_model("model.tokenizer.source", config.model.tokenizer.source)
    for number, reward in enumerate(config.rewards):
        check_there(reward, f"rewards.{number}")
    if config.held_out is not None:
        check_there(config.held_out.judge, "held_out.judge")
    prompts = training_prompts(config)
    Dealer(prompts, config.rollouts.prompts, config.prompts.balance, config.seed)
    held_out_prompts(config, prompts)
    model, vqrae = generator_on_meta(config.model.as_trained())
    learns, beside = (sum(p.numel() for p in part.parameters()) for part in (model, vqrae))
    try_room(run, checkpoint_bytes(learns), 4.0 * (learns + beside), config.checkpoint, config.steps)
    return [*warnings(config), f"prompts: {told_prompts(prompts)}"]


def check_ranks(config: PostTrainingConfig, world: int) -> None:
    """Raises:
    UserError: groups, or micro-batches, do not divide over `world` ranks.
    """
    prompts, per_group = config.rollouts.prompts, config.learned_per_group
    if prompts % world:
        raise UserError(
            f"rollouts.prompts: {prompts} groups do not divide over {world} ranks; a group stays on one"
        )
    here = prompts // world * per_group
    if here % config.batch.micro_size:
        raise UserError(
            f"batch.micro_size: {config.batch.micro_size} does not divide the {here} pictures that each of "
            f"{world} ranks learns from in a step ({prompts // world} groups x {per_group})"
        )


def training_prompts(config: PostTrainingConfig) -> list[ScoredPrompt]:
    """What is drawn and learned from, those of `prompts.without` left out.

    Raises:
        UserError: a file cannot be read, a prompt is a benchmark's, or none is left.
    """
    stated = config.prompts
    with refusing("prompts.without", UserError):
        without = barred_prompts(map(Path, stated.without)) if stated.without else {}
    if stated.made is not None:
        from evals.geneval.made_prompts import made_prompts

        found = made_prompts(stated.made.per_tag, stated.made.seed, without=without)
    else:
        assert stated.file is not None
        with refusing("prompts.file", UserError):
            found = read_scored_prompts(Path(stated.file))
    left = [prompt for prompt in found if hashed(prompt.text) not in without]
    if not left:
        raise UserError(
            f"{stated.file or 'prompts.made'}: prompts.without: leaves out all {len(found)} prompts"
        )
    return left


def held_out_prompts(config: PostTrainingConfig, learned: Sequence[ScoredPrompt]) -> list[ScoredPrompt]:
    """What the held-out judge looks at; none without one.

    Raises:
        UserError: the file cannot be read, or one of its prompts is learned from, or a benchmark's.
    """
    if config.held_out is None:
        return []
    path = Path(config.held_out.prompts)
    with refusing("held_out.prompts", UserError):
        found = read_scored_prompts(path)
    known = {hashed(prompt.text) for prompt in learned}
    for prompt in found:
        if hashed(prompt.text) in known:
            raise UserError(
                f"held_out.prompts: {path}: {shown(prompt.text)} is learned from, too; name this file in "
                "prompts.without, or take others"
            )
    return found


def told_prompts(prompts: Sequence[ScoredPrompt]) -> str:
    """How many, and of which tags."""
    tags: dict[str, int] = {}
    for prompt in prompts:
        tags[tag_of(prompt)] = tags.get(tag_of(prompt), 0) + 1
    told = ", ".join(f"{tag or 'without a tag'} {count}" for tag, count in tags.items())
    return f"{len(prompts)}: {told}"


def warnings(config: PostTrainingConfig) -> list[str]:
    """Lines about what is allowed and hardly meant."""
    lines = schedule_warnings(config.steps, config.optimizer.warmup_steps, "optimizer.warmup_steps", ())
    if config.held_out is None:
        lines.append(
            "warning: held_out: null, so nothing tells whether pictures get better or only the reward does"
        )
    elif config.logging.evaluate_every >= config.steps:
        lines.append(
            f"warning: logging.evaluate_every: the held-out judge looks once in {config.steps} steps"
        )
    if config.samples.sampling.cfg_scale != config.rollouts.cfg_scale:
        lines.append(
            f"warning: samples.sampling.cfg_scale: {config.samples.sampling.cfg_scale:g}, and rollouts learn with "
            f"{config.rollouts.cfg_scale:g}"
        )
    return lines
