"""Train a language model to write pictures as the tokenizer's codes.

    deepspeed generation/train.py --config generation/recipes/qwen3_0_6b.yaml
    python generation/train.py --config generation/recipes/demo.yaml steps=100

The recipe's pictures are encoded while training, or were encoded before by `generation/extract_codes.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import run_cli
from common.training.command import NO_OPTIONS, RunOptions, parse_arguments, run_trainer

if TYPE_CHECKING:
    from generation.config import GenerationConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "qwen3_0_6b.yaml"


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULT_RECIPE)

    from generation.config import GenerationConfig
    from generation.dry_run import plan

    run_trainer(arguments, GenerationConfig, plan, train)


def train(config: GenerationConfig, options: RunOptions = NO_OPTIONS) -> None:
    """One run, from its latest checkpoint if it has one.

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
    from common.training.engine import set_rates
    from common.training.guard import Guard
    from common.training.metrics import Stopwatch, Terms, memory_gib
    from common.training.progress import Progress
    from common.training.recipe_change import check_recipe, check_steps
    from common.training.reporter import Reporter
    from common.training.run import leave_model, open_run, record_run
    from common.training.state import Fact, TrainingState
    from common.training.step_end import StepEnd
    from common.training.stop import StoppedEarly, stop_request
    from generation import assemble
    from generation.beginnings import begin
    from generation.code_encoder import CodeEncoder
    from generation.config import ON_RESUME
    from generation.dataset import Batch, SequenceBuilder, training_batches
    from generation.efficiency import GenerationEfficiency
    from generation.held_out import HeldOut
    from generation.objective import NextCode, perplexity
    from generation.training_samples import SamplePictures

    # --- The process group, the run's folder, and the models
    device = dist.start(config.processes)
    accumulation = config.batch.accumulation(dist.world())
    run = open_run(config.output, config.resume)
    stop = stop_request(run)
    checkpoints = Checkpoints.of(run, config.checkpoint)
    newest = checkpoints.newest()
    notices = check_recipe(run, config, ON_RESUME, options.allow_change, newest.record) if newest else []
    notices += begin(run, config)

    torch.manual_seed(config.seed)  # the same weights on every rank
    generator = assemble.assemble_generator(config)
    vocabulary = generator.vocabulary
    model = NextCode(generator.model, vocabulary, config.loss_vocabulary).to(device)
    encoder = CodeEncoder(generator.vqrae.to(device), config.model.tokenizer.precision)

    # --- The engine, and what changes beside it; then back to where a former run was
    engine = assemble.start_generator(model, config)
    corrupt = CorruptCounter(config.data.max_corrupt_share)
    terms, watch = Terms(device), Stopwatch(device)
    guard = Guard(config.guard, {"generator": engine}, terms, device)
    progress = Progress(config.batch.global_size)
    state = TrainingState(
        engines={"generator": engine},
        parts={"corrupt": corrupt, "guard": guard},
        progress=progress,
        recipe=config,
        facts={"vqrae_sha256": Fact(vocabulary.vqrae_sha256, vocabulary.check_vqrae)},
    )
    if newest is not None:
        notices += state.load(newest)
    best = Best(checkpoints, config.checkpoint.best, config.scores)
    check_steps(run, "steps", config.steps, progress.step)
    record_run(run, config, progress.step)

    # --- The data: what is learned from, what is measured, what is looked at
    builder = SequenceBuilder(generator.text_tokenizer, vocabulary, config.data.prompt_dropout, config.seed)

    def stream() -> Iterator[Batch]:
        share = (dist.rank(), dist.world(), config.batch.micro_size)
        return training_batches(config.data, builder, encoder, config.seed, *share, progress.position)

    batches = stream()
    held_out = HeldOut(config, builder, encoder)
    pictures = SamplePictures(config.seed, config.samples, generator)

    reporter = Reporter(run, config.logging, config.steps, progress.step)
    if newest is not None:
        reporter.say(f"{run}: resuming from step {progress.step}")
    for notice in notices:
        reporter.say(notice)
    efficiency = GenerationEfficiency(generator.model, vocabulary, config.loss_vocabulary, device)

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
    while progress.step < config.steps:
        step = progress.step + 1
        set_rates(engine, step - 1)
        guard.start_step(step)
        for turn in range(accumulation):
            progress.seed_draws(config.seed, turn)
            with watch.waiting():
                batch = next(batches)
            corrupt.add(batch["skipped"], batch["samples"])
            guard.see(batch["keys"])
            output = engine(
                batch["input_ids"].to(device, non_blocking=True),
                batch["predictors"].to(device, non_blocking=True),
                batch["targets"].to(device, non_blocking=True),
            )
            # Every picture has as many codes, so the mean over micro-batches is the mean over all codes.
            engine.backward(guard.veto(engine, output.loss))
            engine.step()
            terms.add(step, loss=output.loss, accuracy=output.accuracy)
            watch.count(**efficiency.count(batch))

        if (due := step_end.due()) is None:
            batches = stream()
            continue
        if due.checkpoint:
            state.save(checkpoints)

        # --- What a user sees: a line, the held-out set, pictures for fixed prompts
        if due.line:
            line = terms.take() | guard.line()
            line["perplexity"] = perplexity(line["loss"])
            line["grad_norm"] = float(engine.get_global_grad_norm() or 0.0)
            line["lr"] = engine.optimizer.param_groups[0]["lr"]
            line |= efficiency.rates(watch.take())
            line |= {"memory_gib": memory_gib(device), "skipped": corrupt.check_all_ranks(device)}
            reporter.line(step, line)
        with suppress(StoppedEarly):
            if due.evaluation and (scores := held_out.evaluate(model, device)):
                reporter.line(step, scores, kind="evaluation")
                best.offer(step, scores)
        if pictures and due.picture:
            reporter.picture(step, pictures.draw(), run / "pictures" / f"step_{step:08d}.png")

        if step_end.stops(due):
            break

    checkpoints.wait()
    if stop.agreed():
        reporter.close(stop.leave(progress.step))
        return
    leave_model(run / "model", generator)
    reporter.close(f"{run / 'model'}: the trained generator")


if __name__ == "__main__":
    run_cli(main)
