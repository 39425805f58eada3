"""Files that evaluations write and read: each is there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line


def write_whole(path: Path, text: str) -> None:
    """Write `path` and the folders above it.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def recorded_drawing(pictures: Path) -> dict[str, Any]:
    """How the pictures were drawn, where `write_pictures` has recorded it beside them."""
    path = pictures / "settings.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a record of settings: {one_line(error)}") from error
