"""What evaluations of pictures share on the command line: a MODEL that draws them, or --pictures that are there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common.errors import refusing
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


def recorded_drawing(pictures: Path) -> dict[str, Any]:
    """How the pictures were drawn, where `write_pictures` has recorded it beside them."""
    path = pictures / "settings.json"
    if not path.is_file():
        return {}
    with refusing(f"{path}: not a record of settings", OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
