"""Train a generator on what its own pictures are worth.

    deepspeed post_training/train.py --config post_training/recipes/qwen3_0_6b_grpo.yaml
    torchrun --standalone --nproc-per-node 2 post_training/train.py --config post_training/recipes/demo_grpo.yaml

Each step draws groups of pictures with the policy as it is, scores them, and learns from the difference within a group.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import run_cli
from common.training.command import NO_OPTIONS, RunOptions, parse_arguments, run_trainer

if TYPE_CHECKING:
    from post_training.config import PostTrainingConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "qwen3_0_6b_grpo.yaml"


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULT_RECIPE)

    from post_training.config import PostTrainingConfig
    from post_training.dry_run import plan

    run_trainer(arguments, PostTrainingConfig, plan, train)


def train(config: PostTrainingConfig, options: RunOptions = NO_OPTIONS) -> None:
    """One run, from its latest checkpoint if it has one.

    Raises:
        UserError: the recipe does not fit machine, models or prompts, a loss is not finite, or nothing can be saved.
    """
    from contextlib import suppress

    import torch

    from common import dist
    from common.models.weight_files import state_sha256
    from common.training.best import Best
    from common.training.checkpoint import Checkpoints
    from common.training.engine import set_rates
    from common.training.guard import Guard
    from common.training.metrics import Terms, memory_gib
    from common.training.progress import Progress
    from common.training.recipe_change import check_recipe, check_steps
    from common.training.reporter import Reporter
    from common.training.run import leave_model, open_run, record_run
    from common.training.state import Fact, TrainingState
    from common.training.step_end import StepEnd
    from common.training.stop import StoppedEarly, stop_request
    from generation.dataset import SequenceBuilder
    from generation.training_samples import SamplePictures
    from post_training import assemble
    from post_training.beginnings import begin, held_out_prompts, training_prompts
    from post_training.config import ON_RESUME
    from post_training.efficiency import StepClock
    from post_training.held_out import HeldOutJudge, Trend
    from post_training.lesson import in_turn, micro_batches, refer
    from post_training.methods.grpo import divergence, equal
    from post_training.methods.opening import method_of
    from post_training.prompts import Dealer
    from post_training.rewards import open_judge, open_rewards, score
    from post_training.rollouts import Roller, code_vectors, diversity, noise_seed, of_rank
    from post_training.signals import PartWatch, line_warnings

    # --- The process group, the run's folder, prompts and scorers, and the models
    device = dist.start(config.processes)
    run = open_run(config.output, config.resume)
    stop = stop_request(run)
    checkpoints = Checkpoints.of(run, config.checkpoint)
    newest = checkpoints.newest()
    notices = check_recipe(run, config, ON_RESUME, options.allow_change, newest.record) if newest else []
    notices += begin(run, config)
    prompts = training_prompts(config)
    judged = held_out_prompts(config, prompts)
    rewards = open_rewards(config, prompts, device)
    judge = open_judge(config, judged, rewards, device)

    torch.manual_seed(config.seed)
    method = method_of(config)
    generator = assemble.assemble_generator(config)
    former = state_sha256(generator.model.state_dict())
    generator.vqrae.to(device)
    policy = assemble.assemble_policy(config, generator, method).to(device)
    reference = assemble.assemble_reference(config, policy, device) if method.refers else None

    # --- The engine, and what changes beside it; then back to where a former run was
    engine = assemble.start_policy(policy, config)
    terms, clock = Terms(device), StepClock(device)
    guard = Guard(config.guard, {"generator": engine}, terms, device)
    trend = Trend(config.held_out.stop_after_falls if config.held_out else None)
    progress = Progress(config.rollouts.prompts)
    state = TrainingState(
        engines={"generator": engine},
        parts={"guard": guard, "trend": trend},
        progress=progress,
        recipe=config,
        facts={
            "vqrae_sha256": Fact(generator.vocabulary.vqrae_sha256, generator.vocabulary.check_vqrae),
            "init_sha256": Fact(former, assemble.check_former(former, config.init_from)),
        },
    )
    if newest is not None:
        notices += state.load(newest)
    best = Best(checkpoints, config.checkpoint.best, config.scores)
    check_steps(run, "steps", config.steps, progress.step)
    record_run(run, config, progress.step)

    # --- What draws, what is learned from, what is looked at
    dealer = Dealer(prompts, config.rollouts.prompts, config.prompts.balance, config.seed)
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    roller = Roller(generator, config.rollouts.batch_size, config.model.tokenizer.precision)
    roller.check((*prompts, *judged))
    held_out = HeldOutJudge(config, roller, judge, judged) if judge is not None else None
    pictures = SamplePictures(config.seed, config.samples, generator)
    watch = PartWatch()

    reporter = Reporter(run, config.logging, config.steps, progress.step)
    if newest is not None:
        reporter.say(f"{run}: resuming from step {progress.step}")
    for notice in notices:
        reporter.say(notice)
    step_end = StepEnd(
        config.steps,
        config.logging,
        config.checkpoint.save_every,
        state=state,
        checkpoints=checkpoints,
        guard=guard,
        stop=stop,
        reporter=reporter,
    )
    stop.begin(config.steps)
    if held_out is not None and progress.step == 0:
        with suppress(StoppedEarly):
            trend.judge(scores := held_out.evaluate(device))
            reporter.line(0, scores, kind="evaluation")
    while progress.step < config.steps and not trend.stopped:
        step = progress.step + 1
        set_rates(engine, step - 1)
        guard.start_step(step)

        # --- Pictures, and what they are worth
        groups = of_rank(dealer.deal(progress.batches), dist.rank(), dist.world())
        guard.see(groups, lambda group: group.prompt.text)
        with clock.phase("draw"):
            roller.refresh()
            seed = noise_seed(config.seed, progress.batches)
            drawn = roller.draw(groups, config.rollouts.group, config.rollouts.sampling, seed)
        with clock.phase("score"):
            scored = score(rewards, drawn)
        watch.see(step, scored.parts)
        reward = scored.rewards.mean().to(device)
        trend.learn(float(dist.sum_(reward.clone())) / dist.world())
        terms.add(
            step,
            reward=reward,
            reward_std=scored.rewards.std(1, correction=0).mean().to(device),
            equal_groups=equal(scored.rewards).float().mean().to(device),
            diversity=diversity(drawn.features, config.rollouts.group).mean(),
            **{f"reward_{name}": part.mean().to(device) for name, part in scored.parts.items()},
        )

        # --- Learning from them
        with clock.phase("update"):
            vectors = code_vectors(generator.vqrae, drawn.codes) if method.compares else None
            chosen = method.choose(scored.rewards, vectors)
            lesson = micro_batches(policy, builder, drawn, chosen, config.batch.micro_size, device)
            if reference is not None:
                refer(lesson, reference, config.engine.precision)
            for update, turn, micro in in_turn(lesson, config.updates_per_rollout):
                progress.seed_draws(config.seed, turn)
                now = engine(*micro.rows)
                old = micro.begin(now)
                loss, own = method.loss(now, old, micro.reference, micro.weights)
                engine.backward(guard.veto(engine, loss))
                engine.step()
                log_probs = now.log_probs.detach()
                terms.add(step, loss=loss, entropy=now.entropy, ratio=(log_probs - old).exp().mean(), **own)
                if update == 0:
                    terms.add(step, sampler_gap=micro.sampler_gap)
                if micro.reference is not None:
                    terms.add(step, kl=divergence(log_probs, micro.reference).mean())
                if turn + 1 == len(lesson) * (update + 1) < len(lesson) * config.updates_per_rollout:
                    guard.end_update()
        clock.count(pictures=len(drawn.pictures), updates=config.updates_per_rollout)

        if (due := step_end.due()) is None:
            continue

        # --- What a user sees: a line, the held-out judge, pictures for fixed prompts
        if due.line:
            line = terms.take() | guard.line()
            line["grad_norm"] = float(engine.get_global_grad_norm() or 0.0)
            line["lr"] = engine.optimizer.param_groups[0]["lr"]
            line |= clock.take() | {"memory_gib": memory_gib(device)}
            reporter.line(step, line)
            for warning in (*watch.warnings(step), *line_warnings(line)):
                reporter.say(warning)
        scores = {}
        with suppress(StoppedEarly):
            if due.evaluation and held_out is not None:
                trend.judge(scores := held_out.evaluate(device))
                reporter.line(step, scores, kind="evaluation")
        # Behind the evaluation, whose trend it holds.
        if due.checkpoint or trend.stopped:
            state.save(checkpoints)
        if scores:
            best.offer(step, scores)
        if pictures and (due.picture or trend.stopped):
            reporter.picture(step, pictures.draw(), run / "pictures" / f"step_{step:08d}.png")

        if step_end.stops(due):
            break

    checkpoints.wait()
    if stop.agreed() and not trend.stopped:
        reporter.close(stop.leave(progress.step))
        return
    leave_model(run / "model", generator)
    if trend.stopped:
        reporter.say(trend.told())
    reporter.close(f"{run / 'model'}: the post-trained generator")


if __name__ == "__main__":
    run_cli(main)
