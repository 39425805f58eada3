"""Table 6: one stage or two, with and without self-distillation; what the pictures gain and the features lose.

    bash scripts/ablations/training_strategy.sh
    bash scripts/ablations/training_strategy.sh --recipe tokenizer/recipes/siglip2_so400m_256_imagenet.yaml \\
        --steps 25000 --encoder-lr 1e-5 --distillation 1.0 --seeds 1 --jobs 1 --launcher deepspeed --world "" \\
        --images imagenet/val --score "--size 256"

Three lines of equal length: everything learns from the first step on, without and with distillation; or the encoder is
frozen for the first half and learns, with distillation, in the second. The paper reads its encoders with a language
model. In miniature it is a linear probe for shape and colour, fitted on each one's features; with --world "" there is
none: train a language model on each, as in understanding/recipes/vicuna_7b_256_pretrain.yaml with
model.tower.source=OUT/NAME_seed0/model. OUT receives a folder for each run, table.md and training_strategy.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError, run_cli
from scripts.ablations.figures import draw_trade
from scripts.ablations.runs import Run, build_parser, carry_out, scores
from scripts.ablations.table import write_table

END_TO_END, DISTILLED, TWO_STAGES = "end to end", "end to end, distillation", "two stages, distillation"
FITTED_ON = 2000  # training pictures for the probe


def chain_of(strategy: str, seed: int, options: argparse.Namespace) -> list[Run]:
    """The trainings of one line; the last one is what counts."""
    name = f"{strategy.replace(',', '').replace(' ', '_')}_seed{seed}"
    learning = (
        *("model.freeze_encoder=false", f"optimizer.encoder_lr={options.encoder_lr}", f"seed={seed}"),
        f"loss.distillation={0.0 if strategy == END_TO_END else options.distillation}",
    )
    if strategy != TWO_STAGES:
        return [Run(name=name, overrides=(*learning, f"steps={options.steps}"))]
    half = options.steps // 2
    first = Run(name=f"{name}_stage1", overrides=(f"seed={seed}", f"steps={half}"), scored=False)
    start = f"init_from={options.out / first.name / 'model'}"
    return [first, Run(name=name, overrides=(*learning, start, f"steps={options.steps - half}"))]


def probed(folders: Mapping[str, Path], world: Path) -> dict[str, float]:
    """Share of held-out objects whose shape and colour a linear probe tells from each tokenizer's features.

    Raises:
        UserError: the world or a model is absent.
    """
    from common.models.vqrae_loading import load_vqrae
    from scripts.demo.probe import encode, fit_probe
    from scripts.demo.world import read_world

    train, held_out = read_world(world, "train"), read_world(world, "val")
    shares = {}
    for name, folder in folders.items():
        encoder = load_vqrae(str(folder))[0].eval().encoder
        probe = fit_probe(encode(encoder, train.images[:FITTED_ON]), train.scenes[:FITTED_ON])
        shares[name] = probe.accuracy(encode(encoder, held_out.images), held_out.scenes)["mean"]
    return shares


def main() -> None:
    parser = build_parser(__doc__, "runs/ablations/training_strategy")
    parser.add_argument("--world", default="runs/demo/world", metavar="DIR", help="of the probe's scenes")
    parser.add_argument("--encoder-lr", type=float, default=1e-3, help="default: %(default)s, the demo's")
    parser.add_argument("--distillation", type=float, default=0.02, help="default: %(default)s, the demo's")
    options = parser.parse_intermixed_args()
    if options.steps < 2:
        raise UserError(f"--steps: expected 2 or more, for two stages, found {options.steps}")
    chains = {
        strategy: [chain_of(strategy, seed, options) for seed in range(options.seeds)]
        for strategy in (END_TO_END, DISTILLED, TWO_STAGES)
    }
    carry_out([chain for seeds in zip(*chains.values(), strict=True) for chain in seeds], options)

    runs = {strategy: [chain[-1] for chain in seeds] for strategy, seeds in chains.items()}
    measured = {strategy: [scores(run, options.out) for run in seeds] for strategy, seeds in runs.items()}
    notes = [f"{options.steps} steps each in all, {options.seeds} seeds (± half of their range)."]
    if options.world:
        folders = {run.name: options.out / run.name / "model" for seeds in runs.values() for run in seeds}
        untouched = chains[TWO_STAGES][0][0].name  # a first stage leaves the encoder as it was
        shares = probed({**folders, untouched: options.out / untouched / "model"}, Path(options.world))
        for strategy, seeds in runs.items():
            measured[strategy] = [
                {**found, "probe": shares[run.name]}
                for found, run in zip(measured[strategy], seeds, strict=True)
            ]
        notes.append(f"Probe on the encoder before training: {shares[untouched]:.3f}.")
    write_table(options.out / "table.md", "training", measured, notes)
    if options.world:
        draw_trade(options.out / "training_strategy.png", measured, "PSNR", "probe")
        print(f"{options.out / 'training_strategy.png'}: what the pictures gain, and the features lose")


if __name__ == "__main__":
    run_cli(main)
