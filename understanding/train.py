"""Train a language model to read the tokenizer's continuous features, one stage per recipe.

    deepspeed understanding/train.py --config understanding/recipes/vicuna_7b_256_pretrain.yaml
    python understanding/train.py --config understanding/recipes/demo_pretrain.yaml

The vision tower is frozen and stays outside the engine, which holds projector and language model; so ZeRO-3
partitions what learns, and batches without images keep the ranks in step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import run_cli
from common.training.command import NO_OPTIONS, RunOptions, parse_arguments, run_trainer

if TYPE_CHECKING:
    from understanding.config import UnderstandingConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "vicuna_7b_256_pretrain.yaml"


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULT_RECIPE)

    from understanding.config import UnderstandingConfig
    from understanding.dry_run import plan

    run_trainer(arguments, UnderstandingConfig, plan, train)


def train(config: UnderstandingConfig, options: RunOptions = NO_OPTIONS) -> None:
    """One stage, from its latest checkpoint if it has one.

    Raises:
        UserError: the recipe does not fit machine, models or data, a loss is not finite, or nothing can be saved.
    """
    from collections.abc import Iterator
    from contextlib import suppress

    import torch

    from common import dist
    from common.data.corrupt import CorruptCounter
    from common.training.best import Best
    from common.training.checkpoint import Checkpoints
    from common.training.engine import deepspeed_config, set_rates
    from common.training.guard import Guard
    from common.training.metrics import Stopwatch, Terms, memory_gib
    from common.training.progress import Progress
    from common.training.recipe_change import check_recipe, check_steps
    from common.training.reporter import Reporter
    from common.training.run import open_run, record_run
    from common.training.state import TrainingState
    from common.training.step_end import StepEnd
    from common.training.stop import StoppedEarly, stop_request
    from understanding import assemble
    from understanding.batches import Batch, training_batches
    from understanding.beginnings import account_lines, begin, warnings
    from understanding.config import ON_RESUME
    from understanding.efficiency import UnderstandingEfficiency
    from understanding.export import leave
    from understanding.held_out import HeldOut
    from understanding.projector_start import standardize
    from understanding.skipped import SkippedList

    # --- The process group, the run's folder, the models and the data
    device = dist.start(config.processes)
    accumulation = config.batch.accumulation(dist.world())
    run = open_run(config.output, config.resume)
    stop = stop_request(run)
    checkpoints = Checkpoints.of(run, config.checkpoint)
    newest = checkpoints.newest()
    notices = check_recipe(run, config, ON_RESUME, options.allow_change, newest.record) if newest else []
    begin(run, config)
    torch.manual_seed(config.seed)  # the same projector on every rank
    settings = deepspeed_config(
        config.engine, config.batch, dist.world(), config.optimizer.adamw.max_grad_norm
    )

    tower = assemble.assemble_tower(config, device)
    processor = assemble.assemble_processor(config, tower)
    side = assemble.assemble_language_side(config, tower, processor, settings, device)
    dataset = assemble.assemble_dataset(config, config.data.sources, processor)
    plan = assemble.assemble_plan(config, dataset)
    steps = plan.steps(config.epochs)
    notices += [*account_lines(dataset), *warnings(config, steps)]
    held_out = HeldOut(config, tower, processor, dataset)
    notices += held_out.notices
    efficiency = UnderstandingEfficiency(config.model, device)

    # --- The engine, and what changes beside it; then back to where a former run was
    if newest is None and config.init_from is None and config.model.projector_start == "standardized":
        standardize(side, tower, dataset, config.engine.precision)
    engine = assemble.start_language_side(side, config, settings, steps)
    left_out = CorruptCounter(config.data.max_skipped_share, "data.max_skipped_share", "samples")
    terms, watch = Terms(device), Stopwatch(device)
    guard = Guard(config.guard, {"language_side": engine}, terms, device)
    progress = Progress(config.batch.global_size)
    state = TrainingState(
        engines={"language_side": engine},
        parts={"skipped": left_out, "guard": guard},
        progress=progress,
        recipe=config,
        facts={"tower": assemble.tower_fact(tower)},
        # A frozen language model comes from where the recipe says.
        without_frozen=("language_side",),
    )
    if newest is not None:
        notices += state.load(newest)
    best = Best(checkpoints, config.checkpoint.best, config.scores)
    check_steps(run, "epochs", steps, progress.step)
    record_run(run, config, progress.step)
    skipped = SkippedList(run / "skipped.txt")
    dataset.list_unusable(skipped, config.data.max_skipped_share)

    def stream() -> Iterator[list[Batch]]:
        return training_batches(
            dataset,
            plan,
            rank=dist.rank(),
            world=dist.world(),
            micro_size=config.batch.micro_size,
            packed=config.data.packing,
            start=progress.batches,
            steps=progress.batches + steps - progress.step,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
        )

    batches = stream()
    reporter = Reporter(run, config.logging, steps, progress.step)
    if newest is not None:
        reporter.say(f"{run}: resuming from step {progress.step}")
    for notice in notices:
        reporter.say(notice)

    step_end = StepEnd(
        steps,
        config.logging,
        config.checkpoint.save_every,
        state=state,
        checkpoints=checkpoints,
        guard=guard,
        stop=stop,
        reporter=reporter,
    )
    stop.begin(steps)
    while progress.step < steps:
        step = progress.step + 1
        with watch.waiting():
            micro_batches = next(batches)
        # DeepSpeed averages over ranks and micro-batches; this share makes it a mean over the step's learned tokens.
        learned = torch.tensor(sum(len(batch["targets"]) for batch in micro_batches), device=device)
        share = accumulation * dist.world() / dist.sum_(learned).clamp_min(1)
        set_rates(engine, step - 1)
        guard.start_step(step)

        for turn, batch in enumerate(micro_batches):
            progress.seed_draws(config.seed, turn)
            guard.see(batch["indices"], dataset.name)
            features = assemble.read_features(tower, batch["pixel_values"], config.engine.precision)
            loss, predicted = engine(
                batch["input_ids"],
                features,
                batch["predictors"],
                batch["targets"],
                batch["attention_mask"],
                batch["position_ids"],
            )
            engine.backward(guard.veto(engine, loss * share))
            engine.step()
            hits = (predicted == batch["targets"].to(device, non_blocking=True)).sum()
            terms.add(step, loss=loss.detach() * share, token_accuracy=hits * share)
            watch.count(**efficiency.count(batch))
            skipped.add(batch["skipped"])
            left_out.add(batch["skipped"], batch["samples"])

        if (due := step_end.due()) is None:
            batches = stream()
            continue
        if due.checkpoint:
            state.save(checkpoints)

        # --- What a user sees: a line, a picture of answers, the held-out set
        if due.line:
            line = terms.take() | guard.line()
            line["grad_norm"] = float(engine.get_global_grad_norm() or 0.0)
            line |= {**assemble.current_rates(engine), "epoch": plan.epoch(progress.batches)}
            line |= efficiency.rates(watch.take())
            line |= {"memory_gib": memory_gib(device), "skipped": left_out.check_all_ranks(device)}
            reporter.line(step, line)
        if due.picture:
            reporter.picture(step, held_out.sheet(side), run / "pictures" / f"step_{step:08d}.png")
        with suppress(StoppedEarly):
            if held_out.samples and due.evaluation:
                scores = held_out.scores(side)
                reporter.line(step, scores, kind="evaluation")
                best.offer(step, scores)

        if step_end.stops(due):
            break

    checkpoints.wait()
    if stop.agreed():
        reporter.close(stop.leave(progress.step))
        return
    leave(run / "model", run / "adapter", config, side, tower, processor)
    reporter.close(f"{run / 'model'}: the trained model")


if __name__ == "__main__":
    run_cli(main)
