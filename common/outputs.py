"""Whose a file is that a command would write over. A user's own are never lost: what is replaced is what this project
wrote, or what `--overwrite` gives away.

A picture of ours says so in itself (`files.write_png`). Other files are known by their folder's `.vqrae`, which the
first command that writes there leaves: from then on what a command of ours writes there is its own to replace.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from common.files import SOFTWARE, write_json

MARK = ".vqrae"


def add_overwrite(
    parser: argparse.ArgumentParser, what: str = "files there that VQRAE did not write"
) -> None:
    parser.add_argument("--overwrite", action="store_true", help=f"write over {what}")


def check_pictures(targets: Iterable[Path], overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Before pictures are written to `targets`.

    Args:
        sources: what they are made of, which is never written over by itself.

    Raises:
        UserError: one of them is a picture, or anything else, of somebody else; or a source.
    """
    if overwrite:
        return
    given = {(is_.st_dev, is_.st_ino) for is_ in map(Path.stat, sources)}
    for target in targets:
        if not target.exists():
            continue
        is_ = target.stat()
        if (is_.st_dev, is_.st_ino) in given:
            raise UserError(
                f"{target}: is what is read; choose another place to write to, or say --overwrite"
            )
        if not _is_our_picture(target):
            raise _theirs(target)


def claim_folder(folder: Path, names: Sequence[str], overwrite: bool = False) -> None:
    """Before a command writes files and folders of these `names` into a folder: mark it as one that it may write to.
    Several processes may call it together, before any of them writes.

    Raises:
        UserError: the folder is not marked, and one of `names` is there; or it cannot be written to.
    """
    mark = folder / MARK
    if mark.is_file():
        return
    for name in names:
        if not overwrite and (folder / name).exists() and not _is_result(folder / "results.json"):
            raise _theirs(folder / name)
    write_json(mark, {"software": SOFTWARE, "writes": list(names)})


def _theirs(path: Path) -> UserError:
    return UserError(
        f"{path}: is there already, and VQRAE did not write it; choose another place, move it, or say --overwrite"
    )


def _is_our_picture(path: Path) -> bool:
    from common.data.decoding import CorruptImage, read_notes

    with suppress(CorruptImage):
        return bool(read_notes(path).get("Software") == SOFTWARE)
    return False


def _is_result(path: Path) -> bool:
    """Whether it is a result of an evaluation, as versions left it that marked no folders."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        return {"benchmark", "protocol", "scores"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    return False
