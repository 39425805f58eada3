"""How long a step of post-training takes, where its time goes and how much memory it needs; and two processes against
one.

    python -m benchmarks.post_training_step --out runs/post_training_step --group 4 8 16 \\
        init_from=runs/demo/generator/model

Trains a few steps by the recipe for each size of group, in one process and in two (one thread each, float32), each in
processes of its own, whose peak of memory is told; the first step is left out of the times. Then the weights of both
are compared: how far they are apart, beside how far training has moved them. A run that is in --out is not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.forked_runs import ForkServer
from common.command import described_parser, positive
from common.config import load_config
from common.errors import UserError, run_cli
from common.files import write_json

RECIPE = Path("post_training/recipes/demo_grpo.yaml")
SECONDS = 3600
FIGURES = (
    "rollouts_per_second",
    "updates_per_second",
    "draw_share",
    "score_share",
    "update_share",
    "memory_gib",
)


def train(recipe: str, overrides: list[str]) -> None:
    """One rank of a run."""
    from post_training import train as trainer
    from post_training.config import PostTrainingConfig

    trainer.train(load_config(PostTrainingConfig, recipe, overrides))


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    rows = []
    with ForkServer(["post_training.train", "post_training.assemble", "deepspeed"]) as server:
        for group in arguments.group:
            runs = [_run(server, arguments, group, world) for world in (1, 2)]
            rows += [
                {"group": group, "processes": world + 1, **_figures(run)} for world, run in enumerate(runs)
            ]
            rows[-1] |= _distance(arguments, *runs)
            print(_line(rows[-2]), _line(rows[-1]), sep="\n", flush=True)
    write_json(arguments.out / "post_training_step.json", rows)
    print(_table(rows))
    if too_far := [
        row["group"] for row in rows if row.get("apart", 0.0) > arguments.allowed * row.get("moved", 1.0)
    ]:
        raise UserError(
            f"two processes differ from one, group {too_far[0]}: by more than {arguments.allowed:g} of what moved"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = described_parser(__doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for runs and results")
    parser.add_argument(
        "--group", type=positive, nargs="+", default=[4, 8, 16], metavar="G", help="pictures of a prompt"
    )
    parser.add_argument("--steps", type=positive, default=4, metavar="N", help="of each run (default: 4)")
    parser.add_argument(
        "--allowed",
        type=float,
        default=1e-2,
        metavar="SHARE",
        help="difference of weights, as a share of their movement",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="fields of the recipe to change"
    )
    return parser.parse_intermixed_args(argv)


def _run(server: ForkServer, arguments: argparse.Namespace, group: int, world: int) -> Path:
    """The folder of a run."""
    from post_training.config import PostTrainingConfig

    output = arguments.out / f"group_{group}_processes_{world}"
    overrides = [
        *arguments.overrides,
        f"output={output}",
        f"steps={arguments.steps}",
        f"rollouts.group={group}",
        f"batch.micro_size={group}",
        "engine.precision=fp32",
        # AdamW divides by a gradient's size: with its own eps, roundings of vanishing ones would move weights.
        "optimizer.adamw.eps=1e-4",
        "logging={log_every: 1, picture_every: 100000, evaluate_every: 100000, writers: []}",
        "held_out=null",
        "checkpoint.best=null",
    ]
    if (output / "model").is_dir():
        wanted = load_config(PostTrainingConfig, arguments.recipe, overrides)
        if load_config(PostTrainingConfig, output / "config.yaml") != wanted:
            raise UserError(f"{output}: was made by another recipe; choose another --out")
        return output
    settings = {"recipe": str(arguments.recipe), "overrides": overrides}
    environment = {"OMP_NUM_THREADS": "1"}
    logs = arguments.out / f"{output.name}_logs"
    run = server.start("benchmarks.post_training_step:train", world, logs, settings, environment)
    if run.wait(SECONDS) != [0] * world:
        said = (run.said(0).strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{logs}: a run of {world} processes failed: {said}")
    return output


def _figures(run: Path) -> dict[str, float]:
    """Means over the lines behind the first one; memory is the largest."""
    from common.training.records import read_records

    lines = read_records(run, "train")[1:]
    means = {name: sum(line[name] for line in lines) / len(lines) for name in FIGURES[:-1]}
    return {**means, "memory_gib": max(line["memory_gib"] for line in lines)}


def _distance(arguments: argparse.Namespace, one: Path, two: Path) -> dict[str, float]:
    """Root mean squares of what lies between the weights of both, and between those of one and the start."""
    from generation.model_folder import load_generator
    from post_training.config import PostTrainingConfig

    start = load_config(PostTrainingConfig, arguments.recipe, arguments.overrides).init_from
    states = [
        load_generator(str(folder)).model.state_dict() for folder in (one / "model", two / "model", start)
    ]

    def apart(first: dict[str, Any], second: dict[str, Any]) -> float:
        squares = sum(float((first[name].double() - second[name].double()).square().sum()) for name in first)
        return float((squares / sum(tensor.numel() for tensor in first.values())) ** 0.5)

    return {"apart": apart(states[0], states[1]), "moved": apart(states[0], states[2])}


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in row.items())


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """For RESULTS.md."""
    lines = [
        "| group | processes | rollouts/s | updates/s | drawing | scoring | updating | peak memory of a process "
        "| weights apart, of their movement |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (f"{row[name]:.0%}" for name in FIGURES[2:5])
        speed = (f"{row['rollouts_per_second']:.1f}", f"{row['updates_per_second']:.2f}")
        apart = f"{row['apart'] / row['moved']:.1e}" if "apart" in row else ""
        cells = (row["group"], row["processes"], *speed, *shares, f"{row['memory_gib']:.2f} GiB", apart)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
