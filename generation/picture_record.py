"""What makes a drawn picture itself, told in its PNG's text chunks, and whether a file is that picture.

What is notable here: identity is the picture's, not the call's. It follows from the model, the settings, the prompt and
its number among the pictures of that prompt; where the prompt stood in a list, how many others were asked for in the
same call, or were drawn beside it, is no part of it. The batch size is told all the same, for it moves roundings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.data.decoding import CorruptImage, read_notes
from common.errors import UserError
from common.files import write_png
from common.text import shown
from generation.batches import Job

PNG = b"\x89PNG\r\n\x1a\n"
"""What each begins with."""
State = Literal["kept", "absent", "damaged", "another"]


def save(picture: Image.Image, path: Path, job: Job, settings: Mapping[str, Any], batch_size: int) -> None:
    """Write a picture that tells what it is; raises `UserError` where it cannot be written."""
    info = PngInfo()
    texts = {
        **_identity(job, settings),
        "prompt_index": str(job.prompt_index),
        "settings": json.dumps({**settings, "batch_size": batch_size}),
    }
    for key, value in texts.items():
        info.add_itxt(key, value)  # UTF-8, unlike plain text chunks
    write_png(path, picture, pnginfo=info)


def look(path: Path, job: Job, settings: Mapping[str, Any], overwrite: bool = False) -> State:
    """Whether the file is the picture of `job`: whole, or not there, or damaged, which is as good as not there.

    Raises:
        UserError: it is another picture, which somebody may want to keep; with `overwrite` it is said to be "another".
    """
    if not path.is_file():
        return "absent"
    try:
        texts = read_notes(path, verify=True)  # all checksums, for a tenth of the time of decoding
    except CorruptImage as error:
        with path.open("rb") as file:
            start = file.read(len(PNG))
        if not overwrite and not PNG.startswith(start):
            raise UserError(f"{path}: no picture of ours; choose another folder, or move it") from error
        return "damaged"
    told = {**read_settings(texts), **texts}
    for name, value in {**settings, **_identity(job, settings)}.items():
        if told.get(name) != value and name != "model":  # the same weights may have moved
            if overwrite:
                return "another"
            before, now = (shown(one) if isinstance(one, str) else one for one in (told.get(name), value))
            raise UserError(
                f"{path}: another picture ({name}: {before}, now {now}); choose another folder, or remove it "
                "(vqrae generate has --overwrite)"
            )
    return "kept"


def batch_size_of(path: Path) -> int | None:
    """With how many it was drawn; None where it does not tell, as a picture that was not drawn here."""
    try:
        return int(read_settings(read_notes(path))["batch_size"])
    except (CorruptImage, KeyError, TypeError, ValueError):
        return None


def read_settings(texts: Mapping[Any, Any]) -> dict[str, Any]:
    """The settings among a picture's text chunks; empty where there are none."""
    try:
        return dict(json.loads(texts["settings"]))
    except (KeyError, TypeError, ValueError):
        return {}


def places(folder: Path, prompts: Sequence[str], beside: Path | None = None) -> list[int]:
    """A number for each prompt in a folder of `NNNNN_NNNN.png`: those that are there keep theirs, new ones follow.

    Args:
        beside: another folder with pictures of the same numbers.
    """
    numbers: dict[str, int] = {}
    last = -1
    folders = [folder] if beside is None else [folder, beside]
    for path in (path for one in folders for path in sorted(one.glob("[0-9]*_[0-9]*.png"))):
        number = path.stem.split("_")[0]
        if not number.isdecimal():
            continue
        last = max(last, int(number))
        try:
            prompt = read_notes(path).get("prompt")
        except CorruptImage:  # its number stays taken, unless another picture of its prompt tells whose it is
            continue
        if isinstance(prompt, str):
            numbers.setdefault(prompt, int(number))
    for prompt in prompts:
        if prompt not in numbers:
            last += 1
            numbers[prompt] = last
    return [numbers[prompt] for prompt in prompts]


def _identity(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        "prompt": job.prompt,
        "seed": str(settings["seed"]),
        "sample_index": str(job.sample_index),
    }
