"""What makes a drawn picture itself, told in its PNG's text chunks, and whether a file is that picture.

What is notable here: identity is the picture's, not the call's. It follows from the model, the settings, the prompt and
two numbers; how many others were asked for in the same call, or were drawn beside it, is no part of it. The batch size
is told all the same, for it moves roundings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.errors import UserError
from common.files import write_png
from generation.generator import Job

State = Literal["kept", "absent", "damaged"]


def save(picture: Image.Image, path: Path, job: Job, settings: Mapping[str, Any], batch_size: int) -> None:
    """Write a picture that tells what it is; raises `UserError` where it cannot be written."""
    info = PngInfo()
    texts = {**_numbers(job, settings), "settings": json.dumps({**settings, "batch_size": batch_size})}
    for key, value in texts.items():
        info.add_itxt(key, value)  # UTF-8, unlike plain text chunks
    write_png(path, picture, pnginfo=info)


def look(path: Path, job: Job, settings: Mapping[str, Any]) -> State:
    """Whether the file is the picture of `job`: whole, or not there, or damaged, which is as good as not there.

    Raises:
        UserError: it is another picture, which somebody may want to keep.
    """
    if not path.is_file():
        return "absent"
    try:
        with Image.open(path) as picture:
            texts: dict[Any, Any] = dict(picture.info)  # `text` would decode
            picture.verify()  # all checksums, for a tenth of the time
    except Exception:  # Pillow raises nearly anything for what is torn
        return "damaged"
    told = {**read_settings(texts), **texts}
    for name, value in {**settings, **_numbers(job, settings)}.items():
        if told.get(name) != value and name != "model":  # the same weights may have moved
            raise UserError(
                f"{path}: another picture ({name}: {told.get(name)}, now {value}); choose another folder, or "
                "remove it"
            )
    return "kept"


def batch_size_of(path: Path) -> int | None:
    """With how many it was drawn; None where it does not tell, as a picture that was not drawn here."""
    try:
        with Image.open(path) as picture:
            return int(read_settings(picture.info)["batch_size"])
    except (OSError, KeyError, TypeError, ValueError, SyntaxError):
        return None


def read_settings(texts: Mapping[Any, Any]) -> dict[str, Any]:
    """The settings among a picture's text chunks; empty where there are none."""
    try:
        return dict(json.loads(texts["settings"]))
    except (KeyError, TypeError, ValueError):
        return {}


def _numbers(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        "prompt": job.prompt,
        "seed": str(settings["seed"]),
        "prompt_index": str(job.prompt_index),
        "sample_index": str(job.sample_index),
    }
