"""What a detector found in each picture: kept in a file per picture, so that an interrupted run goes on.

    OUT/detections/00012/0003.json

What is notable here: the pictures are dealt to processes, but every verdict is made from the files, by one process;
so the number of processes changes nothing. A file counts only for the same picture, the same prompt (which decides
whose colours are looked at) and the same detector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.images import CorruptImage, open_image
from common.errors import UserError, refusing
from common.files import write_text
from evals.answers import essential
from evals.detectors.detection import Detection, Detector
from evals.geneval.prompts import Picture, Prompt
from evals.geneval.rules import Metadata, judge

BLANK = 64  # px


@dataclass(frozen=True)
class Found:
    """A picture's size (width, height) in px, its file's hash, and what was found in it."""

    size: tuple[int, int]
    sha256: str
    detections: tuple[Detection, ...]


def check_opened(detector: Detector, where: object) -> None:
    """Let it look at a blank picture: so whatever is amiss with it shows before anything is drawn.

    Raises:
        UserError: it cannot.
    """
    with refusing(f"{where}: the detector cannot look at a blank picture"):
        detector.detect(Image.new("RGB", (BLANK, BLANK), "white"))


def check_vocabulary(detector: Detector, prompts: Sequence[Prompt]) -> None:
    """Raises `UserError` if a prompt asks for a class or a colour that the detector never reports."""
    for prompt in prompts:
        check_known(detector, prompt.metadata, f"prompt {prompt.number}")


def check_known(detector: Detector, metadata: Metadata, where: str) -> None:
    """`check_vocabulary` of one prompt; `where` is what an error begins with."""
    for wish in (*metadata.get("include", ()), *metadata.get("exclude", ())):
        for kind, name, known in (
            ("class", wish["class"], detector.classes),
            ("color", wish.get("color"), detector.colors),
        ):
            if name is not None and name not in known:
                raise UserError(
                    f"{where}: {kind}: the detector {detector.identity['name']} does not know {name!r}; it knows "
                    f"{', '.join(known)}"
                )


def detect_waiting(detector: Detector, pictures: Sequence[Picture], folder: Path) -> None:
    """Look at this process' share of the pictures that have no valid file yet. All processes call it together.

    Raises:
        UserError: a picture cannot be read, or is of a form that the detector does not take; or a file cannot be
            written.
    """
    from tqdm import tqdm

    from common import dist

    mine = pictures[dist.rank() :: dist.world()]
    for picture in tqdm(mine, unit="picture", desc="detect", disable=not dist.is_main()):
        key = _key(detector, picture)
        if _read(folder, picture, key) is None:
            # Of a form that the detector does not take.
            with refusing(picture.path, CorruptImage, ValueError):
                image = open_image(picture.path)
                detections = detector.detect(image)
            found = _with_colors(picture, detections)
            record = {**key, "size": list(image.size), "detections": [_as_json(one) for one in found]}
            write_text(folder / f"{picture.name}.json", json.dumps(record) + "\n")
    dist.barrier()


def read_found(detector: Detector, pictures: Sequence[Picture], folder: Path) -> list[Found]:
    """What `detect_waiting` found in each picture.

    Raises:
        UserError: a file is missing or belongs to something else, which someone must have changed meanwhile.
    """
    found = []
    for picture in pictures:
        record = _read(folder, picture, _key(detector, picture))
        if record is None:
            raise UserError(
                f"{folder / picture.name}.json: missing or changed while the pictures were judged"
            )
        found.append(record)
    return found


def _with_colors(picture: Picture, detections: Sequence[Detection]) -> list[Detection]:
    """The detections, colours by name where the rules ask for them and the detector finds colours by a function."""
    asked: dict[int, str] = {}

    def remembering(index: int, color: Callable[[], str]) -> Callable[[], str]:
        def ask() -> str:
            if index not in asked:
                asked[index] = color()
            return asked[index]

        return ask

    watched = [
        replace(one, color=remembering(index, one.color)) if callable(one.color) else one
        for index, one in enumerate(detections)
    ]
    judge(picture.prompt.metadata, watched)
    return [
        replace(one, color=asked.get(index)) if callable(one.color) else one
        for index, one in enumerate(detections)
    ]


def _key(detector: Detector, picture: Picture) -> dict[str, Any]:
    with refusing(f"{picture.path}: cannot be read", OSError):
        sha256 = hashlib.sha256(picture.path.read_bytes()).hexdigest()
    key = {
        "picture_sha256": sha256,
        "prompt": picture.prompt.metadata,
        "detector": essential(detector.identity),
    }
    return dict(json.loads(json.dumps(key)))


def _read(folder: Path, picture: Picture, key: Mapping[str, Any]) -> Found | None:
    """None where there is no file, or one of another key."""
    try:
        record = json.loads((folder / f"{picture.name}.json").read_text(encoding="utf-8"))
        if any(record[name] != value for name, value in key.items()):
            return None
        width, height = record["size"]
        return Found(
            (width, height), key["picture_sha256"], tuple(_from_json(one) for one in record["detections"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _as_json(one: Detection) -> dict[str, Any]:
    box = [float(value) for value in one.box]
    return {"name": one.name, "score": float(one.score), "box": box, "color": one.color}


def _from_json(one: Mapping[str, Any]) -> Detection:
    x0, y0, x1, y1 = one["box"]
    # The detector's own precision: as a Python float, its 0.3 would be over the threshold.
    score = np.float32(one["score"])
    return Detection(name=one["name"], score=score, box=(x0, y0, x1, y1), color=one["color"])  # type: ignore[arg-type]
