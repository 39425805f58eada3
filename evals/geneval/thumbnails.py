"""Small copies of pictures, for a page of thousands: `OUT/thumbnails/SHA256.jpg`, by the picture's content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from common.data.images import read_image
from common.files import whole_file
from evals.geneval.detections import Found
from evals.geneval.prompts import Picture

SIDE = 256  # px, the longer one; the page shows 220, and a screen may have finer ones
SMALL = 128  # px; a picture of a shorter side than this is its own thumbnail, so that its pixels can be told


def write_thumbnails(folder: Path, seen: Sequence[tuple[Picture, Found]]) -> None:
    """Make those that are not there yet.

    Raises:
        UserError: a picture cannot be read, or a thumbnail not be written.
    """
    from tqdm import tqdm

    waiting = {
        path: picture
        for picture, found in seen
        if (path := _place(folder, found)) is not None and not path.is_file()
    }
    for path, picture in tqdm(waiting.items(), unit="picture", desc="thumbnails", disable=not waiting):
        image = read_image(picture.path)
        image.thumbnail((SIDE, SIDE))
        with whole_file(path) as partial:
            image.save(partial, format="JPEG", quality=80)


def thumbnail_of(folder: Path, picture: Picture, found: Found) -> str:
    """Where a page in `folder` finds the thumbnail: an address relative to it."""
    return address(_place(folder, found) or picture.path, folder)


def address(path: Path, folder: Path) -> str:
    """A file as a page in `folder` names it."""
    return quote(os.path.relpath(path, folder).replace(os.sep, "/"))


def _place(folder: Path, found: Found) -> Path | None:
    """None where a picture is small enough."""
    return None if min(found.size) < SMALL else folder / "thumbnails" / f"{found.sha256[:16]}.jpg"
