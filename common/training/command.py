"""The command line that the three trainers share. Light on purpose: `--help` loads no model library."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common.errors import UserError

DEFAULT_GPUS = 8  # of a dry run


def parse_arguments(description: str, default_recipe: Path) -> argparse.Namespace:
    """`[--config FILE] [key.path=value ...] [--print-config] [--dry-run [--gpus N]]`.

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
    # DeepSpeed's launcher appends it; the rank itself is read from the environment.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_intermixed_args()


def planned_ranks(gpus: int | None) -> int:
    """How many ranks a dry run plans for: `--gpus`, else the launcher's, else 8.

    Raises:
        UserError: fewer than one.
    """
    ranks = int(os.environ.get("WORLD_SIZE", DEFAULT_GPUS)) if gpus is None else gpus
    if ranks < 1:
        raise UserError(f"--gpus: expected 1 or more, found {ranks}")
    return ranks
