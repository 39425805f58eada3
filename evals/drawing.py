"""What evaluations of pictures share on the command line: a MODEL that draws them, or --pictures that are there."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals import command
from evals.preflight import Need, model
from generation import drawing


def build_parser(prog: str, description: str | None, layout: str) -> argparse.ArgumentParser:
    """A parser with MODEL, --output, --limit, --pictures and all that says how pictures are drawn.

    Args:
        layout: of the folder that --pictures names.
    """
    what = "generator's folder or hub id; not needed with --pictures"
    parser = command.build_parser(prog, description, what, model_is_optional=True)
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help=f"look at these instead of drawing: {layout}"
    )
    drawing.add_arguments(parser)
    return parser


def need(arguments: argparse.Namespace, layout: str) -> Need:
    """For preflight: something to look at."""
    if arguments.pictures is None:
        if arguments.model:
            return model(arguments.model, "MODEL, a generator")
        what = "MODEL: a generator's folder or hub id"
        return Need(what, False, "or --pictures DIR, to look at what is there")
    if arguments.model:
        return Need(
            "either MODEL or --pictures", False, "both were given, and the pictures may be another model's"
        )
    return Need(f"--pictures {arguments.pictures}", arguments.pictures.is_dir(), f"a folder: {layout}")
