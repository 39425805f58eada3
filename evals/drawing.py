"""What evaluations of pictures share: a MODEL that draws them, or --pictures that are there already."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import refusing
from evals import command
from evals.preflight import Need
from evals.preflight import model as model_need
from generation.drawing import Drawing, add_arguments

if TYPE_CHECKING:
    from generation.generator import Job


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where pictures come from, as far as that is known.

    Args:
        model: as `Results.model`; the pictures' folder stands for an unknown one.
        drawing: the settings that they were drawn with; empty where unknown.
    """

    model: dict[str, Any]
    drawing: dict[str, Any]


def build_parser(
    prog: str, description: str | None, layout: str, writes: Sequence[str]
) -> argparse.ArgumentParser:
    """A parser with MODEL, --output, --limit, --pictures and all that says how pictures are drawn.

    Args:
        layout: of the folder that --pictures names. writes: see `command.build_parser`.
    """
    what = "generator's folder or hub id; not needed with --pictures"
    parser = command.build_parser(prog, description, what, model_is_optional=True, writes=writes)
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help=f"look at these instead of drawing: {layout}"
    )
    add_arguments(parser)
    return parser


def need(model: str | None, pictures: Path | None, layout: str) -> Need:
    """For preflight: something to look at, which is either a model's to draw or there."""
    if pictures is None:
        if model:
            return model_need(model, "MODEL, a generator")
        what = "MODEL: a generator's folder or hub id"
        return Need(what, False, "or --pictures DIR, to look at what is there")
    if model:
        return Need(
            "either MODEL or --pictures", False, "both were given, and the pictures may be another model's"
        )
    return Need(f"--pictures {pictures}", pictures.is_dir(), f"a folder: {layout}")


def draw(
    arguments: argparse.Namespace,
    prompts: Sequence[tuple[int, str]],
    n: int,
    folder: Path,
    naming: Callable[[Job], str] | None = None,
) -> list[Path]:
    """The files of `n` pictures of each prompt, of which MODEL draws those that are not there yet.

    A picture is kept under its prompt's number in the whole set, so --limit, another batch size and more pictures of
    each all go on with what is there. Says how much that was.

    Args:
        arguments: of `build_parser`.
        prompts: (number in the whole set, text).
        naming: as of `write_pictures`.

    Raises:
        UserError: a model, prompt or setting that cannot be used, or the folder holds other pictures.
    """
    from common import dist
    from generation import picture_folder

    drawn = picture_folder.draw(
        Drawing.read(vars(arguments)),
        arguments.model,
        [text for _, text in prompts],
        n,
        folder,
        naming or picture_folder.flat,
        [number for number, _ in prompts],
    )
    if dist.is_main():
        print(f"{folder}: {drawn}", flush=True)
    return drawn.files


def find_origin(folder: Path, model: str | None, files: Iterable[Path], record: Path | None = None) -> Origin:
    """Of pictures, by what `write_pictures` has recorded beside and in them.

    Args:
        model: which has drawn them in this call or a former one of the same command; None: whatever the record says.
        files: the pictures; those that tell with how many they were drawn are counted by that, in `batch_sizes`.
        record: the folder of the record, where the pictures have been copied from it.

    Raises:
        UserError: the record is damaged.
    """
    from generation.picture_record import batch_size_of

    path, settings = (record or folder) / "settings.json", {}
    if path.is_file():
        with refusing(f"{path}: not a record of settings", OSError, ValueError, TypeError):
            settings = dict(json.loads(path.read_text(encoding="utf-8")))
        sizes = Counter(batch_size_of(file) for file in files)
        settings["batch_sizes"] = {str(size): count for size, count in sizes.items() if size is not None}
    source = model or settings.get("model") or str(folder)
    model_facts = {"source": source, "weights_sha256": settings.get("weights_sha256")}
    return Origin(model=model_facts, drawing=settings)


def mixed(origin: Origin) -> list[str]:
    """A line to print where pictures were drawn in batches of several sizes."""
    sizes = origin.drawing.get("batch_sizes", {})
    if len(sizes) < 2 or origin.drawing.get("deterministic"):
        return []
    told = ", ".join(f"{count} in batches of {size}" for size, count in sizes.items())
    return [
        f"pictures of several calls: {told}; roundings differ, in bfloat16 visibly (--deterministic: not)"
    ]
