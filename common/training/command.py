"""The command line that the three trainers share. Light on purpose: `--help` loads no model library."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from common.config import Config

Recipe = TypeVar("Recipe", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is said of one start of a run and is no part of its recipe.

    Args:
        allow_change: fields that may differ from the recipe of the checkpoint, see `recipe_change`.
    """

    allow_change: tuple[str, ...] = ()


NO_OPTIONS = RunOptions()


class Train(Protocol[Recipe]):
    def __call__(self, config: Recipe, options: RunOptions, /) -> None: ...


def parse_arguments(description: str, default_recipe: Path) -> argparse.Namespace:
    """`[--config FILE] [key.path=value ...] [--allow-change KEY,...] [--print-config] [--dry-run [--gpus N]]
    [--time-limit TIME]`.

    Without `--config` it is the paper's first stage, so that a bare command never trains a toy.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=default_recipe, help="a recipe (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="fields of the recipe to change"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved recipe as YAML and stop"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print batch, steps, parameters and memory, load no weights, and stop",
    )
    parser.add_argument(
        "--gpus", type=int, help="ranks to plan for in a dry run (default: the launcher's, or 8)"
    )
    parser.add_argument(
        "--allow-change",
        type=_keys,
        action="extend",
        default=[],
        metavar="KEY[,KEY]",
        help="fields of the recipe that may differ from those which the run to be resumed was trained with",
    )
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        help="save and end with the step after this time since the start, such as 3h50m (default: none)",
    )
    # DeepSpeed's launcher appends it; the rank itself is read from the environment.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_intermixed_args()


def run_trainer(
    arguments: argparse.Namespace,
    kind: type[Config],
    plan: Callable[[Config, int | None], str],
    train: Train[Config],
) -> None:
    """Read the recipe; then print it, or its plan, or train.

    Args:
        arguments: of `parse_arguments`.
        kind: the recipe's dataclass.
        plan: `(recipe, GPUs)` -> the page of a dry run.

    Raises:
        UserError: the recipe is unsound, or what `plan` and `train` raise.
    """
    from common.config import dump_config, load_config
    from common.training.stop import listening, read_duration

    config = load_config(kind, arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump_config(config), end="")
    elif arguments.dry_run:
        print(plan(config, arguments.gpus))
    else:
        limit = read_duration(arguments.time_limit) if arguments.time_limit else None
        with listening(Path(config.output), limit):  # type: ignore[attr-defined]  # every recipe has one
            train(config, RunOptions(allow_change=tuple(arguments.allow_change)))


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]
