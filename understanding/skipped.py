"""What is left out of the data: images that cannot be used, and the list of the samples that they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from common.data.images import MAX_ASPECT, CorruptImage, open_image, read_size
from common.files import writing
from understanding.conversation import BadSample

if TYPE_CHECKING:
    from PIL.Image import Image

Seen = TypeVar("Seen")


def open_listed(path: Path) -> Image:
    """An image that a record names, as upright RGB.

    Raises:
        BadSample: it is missing, cannot be decoded, or is so thin that padding it to a square would be huge.
    """
    image = _look(path, open_image)
    _check_sides(path, *image.size)
    return image


def check_header(path: Path) -> None:
    """As `open_listed`, yet from the file's first bytes: finds what is missing, foreign or too large.

    Raises:
        BadSample: it is.
    """
    _check_sides(path, *_look(path, read_size))


def _look(path: Path, read: Callable[[Path], Seen]) -> Seen:
    try:
        return read(path)
    except CorruptImage as error:
        if not path.exists():
            raise BadSample("missing image", str(path)) from error
        raise BadSample("corrupt image", f"{path}: {error.reason}") from error


def _check_sides(path: Path, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if long > MAX_ASPECT * short:
        raise BadSample("corrupt image", f"{path}: {width} x {height} pixels, sides over {MAX_ASPECT}:1")


class SkippedList:
    """A file of the samples that were left out, a line each: `SOURCE: ID: reason`.

    All ranks append to it, whole lines at a time; what it holds already is not written again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, lines: Iterable[str]) -> None:
        """Raises:
        UserError: the file cannot be written.
        """
        lines = list(dict.fromkeys(lines))
        if not lines:
            return
        with writing(self._path), self._path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            known = set(file.read().splitlines())
            file.write("".join(f"{line}\n" for line in lines if line not in known))
