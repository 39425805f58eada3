"""Files that evaluations write: each is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import UserError


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
