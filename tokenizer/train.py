"""Train VQRAE, one stage per recipe.

    deepspeed tokenizer/train.py --config tokenizer/recipes/siglip2_so400m_256_stage1.yaml
    python tokenizer/train.py --config tokenizer/recipes/demo_stage1.yaml steps=100

Two engines run side by side: the generator (encoder, quantizer, decoder) and, where the recipe has one, the
discriminator. The stages of the paper differ by fields of the recipe only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import run_cli
from common.training.command import NO_OPTIONS, RunOptions, parse_arguments, run_trainer

if TYPE_CHECKING:
    from tokenizer.config import TokenizerConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "siglip2_so400m_256_stage1.yaml"


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULT_RECIPE)

    from tokenizer.config import TokenizerConfig
    from tokenizer.dry_run import plan

    run_trainer(arguments, TokenizerConfig, plan, train)


def train(config: TokenizerConfig, options: RunOptions = NO_OPTIONS) -> None:
    """One stage, from its latest checkpoint if it has one.

    Raises:
        UserError: the recipe does not fit machine or data, a loss is not finite, or nothing can be saved.
    """
    from collections.abc import Iterator
    from contextlib import suppress

    import torch

    from common import dist
    from common.data.batch import Batch
    from common.data.corrupt import CorruptCounter
    from common.data.images import to_float
    from common.data.stream import training_loader
    from common.metrics.code_usage import CodeUsage
    from common.training.best import Best
    from common.training.checkpoint import Checkpoints
    from common.training.ema import ShardedEMA, averaged
    from common.training.engine import set_rates
    from common.training.guard import Guard
    from common.training.metrics import Stopwatch, Terms, memory_gib
    from common.training.progress import Progress
    from common.training.recipe_change import check_recipe, check_steps
    from common.training.reporter import Reporter
    from common.training.run import leave_model, open_run, record_run
    from common.training.state import TrainingState
    from common.training.step_end import StepEnd
    from common.training.stop import StoppedEarly, stop_request
    from tokenizer import assemble
    from tokenizer.beginnings import begin
    from tokenizer.codebook_revival import revive
    from tokenizer.codebook_start import start_from_data
    from tokenizer.codebook_watch import CodebookWatch
    from tokenizer.config import ON_RESUME
    from tokenizer.distances import build_distances
    from tokenizer.efficiency import TokenizerEfficiency
    from tokenizer.from_checkpoint import note_model
    from tokenizer.held_out import evaluate, first_images, reconstruction_grid
    from tokenizer.losses import LeCam
    from tokenizer.objective import GeneratorObjective, discriminator_objective
    from tokenizer.perceptual import build_perceptual

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
    model = assemble.assemble_model(config).to(device)
    teacher = assemble.assemble_teacher(model, config)
    critic = assemble.assemble_discriminator(config)
    perceptual = build_perceptual(config.loss.perceptual_model, device) if config.loss.perceptual else None
    distances = build_distances(config, model, teacher, perceptual, device)
    if newest is None and config.init_from is None:
        start_from_data(model, config, device)

    # --- The engines, and what changes beside them; then back to where a former run was
    generator = assemble.start_generator(model, config)
    discriminator = assemble.start_discriminator(critic, config) if critic is not None else None
    engines = {"generator": generator, "discriminator": discriminator}
    progress = Progress(config.batch.global_size)
    lecam, corrupt = LeCam().to(device), CorruptCounter(config.data.max_corrupt_share)
    ema = ShardedEMA(model) if config.ema else None
    terms, usage = Terms(device), CodeUsage(config.model.codebook_size, device)
    guard = Guard(config.guard, engines, terms, device, beside={"lecam": lecam, "ema": ema})
    codebook = CodebookWatch(config.codebook_watch, usage, guard.say) if config.model.quantize else None
    state = TrainingState(
        engines=engines,
        parts={"lecam": lecam, "ema": ema, "corrupt": corrupt, "guard": guard, "codebook": codebook},
        progress=progress,
        recipe=config,
    )
    if newest is not None:
        notices += state.load(newest)
    best = Best(checkpoints, config.checkpoint.best, config.scores)
    check_steps(run, "steps", config.steps, progress.step)
    record_run(run, config, progress.step)
    note_model(run, model)
    objective = GeneratorObjective(config.loss, model, teacher, perceptual, config.engine.precision)

    def stream() -> Iterator[Batch]:
        share = (dist.rank(), dist.world(), config.batch.micro_size)
        return iter(training_loader(config.data, config.seed, *share, progress.position, captions=False))

    batches = stream()
    reporter = Reporter(run, config.logging, config.steps, progress.step)
    if newest is not None:
        reporter.say(f"{run}: resuming from step {progress.step}")
    for notice in notices:
        reporter.say(notice)
    watch = Stopwatch(device)
    efficiency = TokenizerEfficiency(config, perceptual, device)
    shown = first_images(config, device)

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
        # A step counts from 1 here; the recipe's start steps count the steps already done, as in Table 7.
        learning = discriminator if step > config.loss.first_discriminator_update else None
        felt = critic if step > (config.loss.discriminator_start or 0) else None
        set_rates(generator, step - 1)
        if learning is not None:
            set_rates(learning, step - 1 - config.loss.first_discriminator_update)
        guard.start_step(step)

        for turn in range(accumulation):
            progress.seed_draws(config.seed, turn)
            with watch.waiting():
                batch = next(batches)
            images = len(batch["key"])
            corrupt.add(batch["skipped"], images)
            guard.see(batch["key"])
            watch.count(**efficiency.count(images, felt=felt is not None, learning=learning is not None))
            pixels = to_float(batch["pixels"].to(device, non_blocking=True))

            # --- The generator: reconstruct, quantize, stay near the teacher, convince the discriminator
            output = generator(pixels, quantize=config.model.quantize)
            reconstruction = output.reconstruction.float()
            fake = None
            if felt is not None:
                # The gradient passes through it and leaves nothing in it. Not through its engine, which
                # would start a reduction of its own in the middle of the generator's backward pass.
                felt.requires_grad_(False)
                fake = felt(reconstruction)  # in float32, as it learns (decision 4)
            loss, values = objective(output, pixels, fake)
            generator.backward(guard.veto(generator, loss))
            generator.step()
            terms.add(step, **values)
            if output.codes is not None:
                usage.update(output.codes)

            # --- The discriminator: tell pictures from reconstructions
            if learning is not None:
                learning.module.requires_grad_(True)
                logits = learning(torch.cat([pixels, reconstruction.detach()]))
                real, fake = logits.chunk(2)
                loss, values = discriminator_objective(real, fake, lecam, config.loss.lecam)
                learning.backward(loss)
                learning.step()
                terms.add(step, **values)

        if learning is not None:
            lecam.update()
        if ema is not None:
            ema.update()

        if (due := step_end.due()) is None:
            batches = stream()
            continue

        # --- A line; where too few codes are used, the others come back
        if due.line:
            line = terms.take() | guard.line()
            if codebook is not None:
                used, dead = codebook.line()
                line |= used
                if dead is not None:
                    line["revived_codes"] = revive(
                        model.quantizer, dead, output.quantizer_input.detach(), config.seed, step
                    )
            line["grad_norm"] = float(generator.get_global_grad_norm() or 0.0)
            line |= {
                f"lr_{g['name']}": g["lr"] for g in generator.optimizer.param_groups if "/" not in g["name"]
            }
            if ema is not None:
                line["ema_decay"] = ema.decay
            line |= efficiency.rates(watch.take())
            line |= {"memory_gib": memory_gib(device), "skipped": corrupt.check_all_ranks(device)}
            reporter.line(step, line)

        if due.checkpoint:
            state.save(checkpoints)

        # --- What else a user sees: a picture, the held-out set
        if config.evaluation.images and (due.picture or due.evaluation):
            with averaged(ema), suppress(StoppedEarly):
                if due.picture and shown is not None:
                    picture = reconstruction_grid(model, shown, config)
                    reporter.picture(step, picture, run / "pictures" / f"step_{step:08d}.png")
                if due.evaluation:
                    scores = evaluate(model, config, device, distances, reporter.say)
                    reporter.line(step, scores, kind="evaluation")
                    best.offer(step, scores)

        if step_end.stops(due):
            break

    checkpoints.wait()
    if stop.agreed():
        reporter.close(stop.leave(progress.step))
        return
    with averaged(ema):
        leave_model(run / "model", model)
    reporter.close(f"{run / 'model'}: the trained VQRAE")


if __name__ == "__main__":
    run_cli(main)
