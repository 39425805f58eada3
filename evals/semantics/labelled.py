"""Pictures with labels: a folder of classes, or a world of the demo, where the objects in the pictures have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.data.evaluation import EvaluationLoader, evaluation_loader
from common.errors import UserError, refusing
from evals.command import spread

WORLD_SCENES = "val_scenes.jsonl"
"""What makes a folder a world; its pictures are in `val`, which no training of the demo sees."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the picture's sides."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Things to be told, one or several in each picture.

    `folder`: of the pictures; `images`: their indices among all of it, `found`: how many are there. `labels`: question
    (`class`, or `shape`, `color`) -> for each picture the label of each of its things. `boxes`: of the things; None
    where a thing is the whole picture.
    """

    folder: Path
    images: list[int]
    found: int
    labels: dict[str, list[list[str]]]
    boxes: list[list[Box]] | None

    def loader(self, size: int, batch: int, rank: int = 0, world: int = 1) -> EvaluationLoader:
        """The pictures as squares of `size` px, in whole batches that are dealt to ranks."""
        firsts = range(rank * batch, len(self.images), world * batch)
        own = [at for first in firsts for at in self.images[first : first + batch]]
        return replace(evaluation_loader(str(self.folder), size, batch), images=own)


def read_labelled(folder: Path, limit: int | None = None) -> Labelled:
    """A folder with a folder for each class (any depth below), or a world.

    Args:
        limit: so many pictures, at even distances, so that each class is there.

    Raises:
        UserError: a picture lies in no class's folder; there are fewer than two classes; a world's scenes are damaged,
            or not those of its pictures.
    """
    return _world(folder, limit) if (folder / WORLD_SCENES).is_file() else _folder(folder, limit)


def _folder(folder: Path, limit: int | None) -> Labelled:
    source = evaluation_loader(str(folder), 1, 1).source
    images = spread(range(len(source)), limit)
    keys = [source.read(index).key for index in images]
    loose = next((key for key in keys if "/" not in key), None)
    if loose is not None:
        raise UserError(f"{folder / loose}: expected a folder for each class, with its pictures in it")
    labels = [[key.split("/", 1)[0]] for key in keys]
    _check(folder, {"class": labels})
    return Labelled(folder=folder, images=images, found=len(source), labels={"class": labels}, boxes=None)


def _world(folder: Path, limit: int | None) -> Labelled:
    path = folder / WORLD_SCENES
    with refusing(f"{path}: expected a world's scenes", OSError, ValueError, KeyError, TypeError):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        records.sort(key=lambda record: record["image"])
        images = spread(range(len(records)), limit)
        found = [str(record["image"]) for record in records]
        records = [records[index] for index in images]
        labels = {
            question: [[str(thing[question]) for thing in record["things"]] for record in records]
            for question in ("shape", "color")
        }
        boxes = [[_share(thing["box"], record["size"]) for thing in record["things"]] for record in records]
    source = evaluation_loader(str(folder / "val"), 1, 1).source
    if found != [f"val/{source.read(index).key}" for index in range(len(source))]:
        raise UserError(f"{path}: its scenes are not those of the pictures in {folder / 'val'}")
    _check(folder, labels)
    return Labelled(folder=folder / "val", images=images, found=len(source), labels=labels, boxes=boxes)


def _share(box: Sequence[float], size: float) -> Box:
    left, top, right, bottom = (float(at) / size for at in box)
    return left, top, right, bottom


def _check(folder: Path, labels: dict[str, list[list[str]]]) -> None:
    for question, of_pictures in labels.items():
        kinds = {label for things in of_pictures for label in things}
        if len(kinds) < 2:
            raise UserError(f"{folder}: {question}: expected two labels or more, found {sorted(kinds)}")
