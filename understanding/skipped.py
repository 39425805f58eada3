"""What is left out of the data: images that cannot be used, and the list of the samples that they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from common.data.blobs import is_url, open_blob
from common.data.images import MAX_ASPECT, CorruptImage, open_image, read_size
from common.errors import LONGEST, FailedRead, UserError
from common.files import writing
from understanding.conversation import BadSample

if TYPE_CHECKING:
    from PIL.Image import Image

Seen = TypeVar("Seen")


def located(name: str, images: str | None, beside: str) -> Path | str:
    """What a record's name of a picture means.

    Args:
        images: the folder that names start from; None is the one that the file `beside` lies in.
    """
    if name.startswith("file://"):
        return Path(unquote(name.removeprefix("file://").removeprefix("localhost")))
    if is_url(name):
        return name
    return (Path(beside).parent if images is None else Path(images)) / name


def open_listed(picture: Path | str | bytes) -> Image:
    """An image that a record names or holds, as upright RGB.

    Raises:
        BadSample: it is missing, cannot be decoded, or is so thin that padding it to a square would be huge.
    """
    image = _look(picture, open_image)
    _check_sides(picture, *image.size)
    return image


def check_header(picture: Path | str | bytes) -> None:
    """As `open_listed`, yet from the picture's first bytes: finds what is missing, foreign or too large.

    Raises:
        BadSample: it is.
    """
    _check_sides(picture, *_look(picture, read_size))


def _look(picture: Path | str | bytes, read: Callable[[Path | bytes], Seen]) -> Seen:
    if isinstance(picture, str):
        try:
            with open_blob(picture) as file:
                content = file.read()
        except FailedRead:
            raise  # it may be had another time
        except (UserError, OSError) as error:
            raise BadSample("missing image", str(error)) from error
    try:
        return read(content if isinstance(picture, str) else picture)
    except CorruptImage as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadSample("missing image", _named(picture)) from error
        raise BadSample("corrupt image", f"{_named(picture)}: {error.reason}") from error


def _named(picture: Path | str | bytes) -> str:
    """The end of a path tells more than its beginning."""
    return f"{len(picture)} bytes in the record" if isinstance(picture, bytes) else str(picture)[-LONGEST:]


def _check_sides(picture: Path | str | bytes, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if long > MAX_ASPECT * short:
        raise BadSample(
            "corrupt image", f"{_named(picture)}: {width} x {height} pixels, sides over {MAX_ASPECT}:1"
        )


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
        # A path that is no UTF-8 has its bytes as halves of surrogate pairs, which no file takes.
        lines = list(dict.fromkeys(line.encode("utf-8", "backslashreplace").decode() for line in lines))
        if not lines:
            return
        with writing(self._path), self._path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            known = set(file.read().splitlines())
            file.write("".join(f"{line}\n" for line in lines if line not in known))
