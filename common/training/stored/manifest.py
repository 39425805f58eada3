"""What makes a checkpoint whole: a list of its files with their sizes and hashes, written last.

    step_00001000/record.json                              the step, and all that is no tensor
    step_00001000/weights_rank00000_00000.safetensors ...  tensors, dealt over the ranks that saved them
    step_00001000/manifest.json                            {"format", "step", "files", "sha256"}

`sha256` of the manifest is of its own other fields, so that no byte of a checkpoint can change unseen. Nothing here is
pickle: reading a checkpoint executes nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line
from common.files import write_json

MANIFEST = "manifest.json"
RECORD = "record.json"
FORMAT = 1
STEP = re.compile(r"step_(\d{8,})")


class NotWhole(UserError):
    """A checkpoint is damaged; an older one may be whole."""


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes, SHA-256 in hex, and the tensors that stand in it."""

    bytes: int
    sha256: str
    keys: list[str] = field(default_factory=list)


Files = dict[str, StoredFile]


def step_folder(step: int) -> str:
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step whose checkpoint a folder of this name holds; None for any other name."""
    found = STEP.fullmatch(name)
    return int(found[1]) if found and name == step_folder(int(found[1])) else None


def stored_file(path: Path, keys: Iterable[str] = ()) -> StoredFile:
    return StoredFile(path.stat().st_size, sha256_of(path), list(keys))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, step: int, files: Files) -> None:
    """Raises `UserError` where it cannot be written."""
    stated = {
        "format": FORMAT,
        "step": step,
        "files": {name: asdict(file) for name, file in sorted(files.items())},
    }
    write_json(folder / MANIFEST, {**stated, "sha256": _digest(stated)})


def read_manifest(folder: Path) -> Files:
    """The files that make up the checkpoint `folder`.

    Raises:
        NotWhole: the manifest is absent, torn, changed, or not this folder's.
        UserError: a later version wrote it.
    """
    path = folder / MANIFEST
    try:
        stated = json.loads(_regular(path).read_bytes())
        digest = stated.pop("sha256")
        if digest != _digest(stated):
            raise NotWhole(f"{path}: not what was written: its SHA-256 is another")
        if stated["format"] != FORMAT:
            raise UserError(f"{path}: format {stated['format']}, which this version does not know ({FORMAT})")
        if step_folder(stated["step"]) != folder.name:
            raise NotWhole(f"{path}: is the manifest of step {stated['step']}")
        files = {name: StoredFile(**file) for name, file in stated["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotWhole(f"{path}: cannot be read: {one_line(error, path)}") from error
    for name in files:
        # A name that leads elsewhere, to a parent or a subfolder, is none that we wrote.
        if name in ("", ".", "..", MANIFEST) or "/" in name or "\\" in name or "\0" in name:
            raise NotWhole(f"{path}: lists {name!r}, which is no file of this folder")
    if RECORD not in files:
        raise NotWhole(f"{path}: lists no {RECORD}")
    return files


def check_sizes(folder: Path, files: Files) -> None:
    """Raises `NotWhole`: a listed file is absent or of another size, or one lies there that is not listed."""
    with refusing_as_damaged(folder):
        there = {path.name for path in folder.iterdir()}
    for name, file in files.items():
        if name not in there:
            raise NotWhole(f"{folder / name}: absent, yet {MANIFEST} lists it")
        with refusing_as_damaged(folder / name):
            size = _regular(folder / name).stat().st_size
        if size != file.bytes:
            raise NotWhole(f"{folder / name}: {size} bytes, expected {file.bytes}")
    if strangers := sorted(there - {*files, MANIFEST}):
        raise NotWhole(f"{folder / strangers[0]}: {MANIFEST} does not list it; no run of ours wrote it there")


def check_hash(folder: Path, name: str, file: StoredFile) -> None:
    """Raises `NotWhole`: the bytes are others than were written."""
    with refusing_as_damaged(folder / name):
        found = sha256_of(folder / name)
    if found != file.sha256:
        raise NotWhole(f"{folder / name}: damaged: its SHA-256 is not the one in {MANIFEST}")


@contextmanager
def refusing_as_damaged(where: Path) -> Iterator[None]:
    """Inside, what the system refuses to read is `NotWhole`."""
    try:
        yield
    except OSError as error:
        raise NotWhole(f"{where}: cannot be read: {one_line(error, where)}") from error


def _regular(path: Path) -> Path:
    """`path`, which is a file: reading from a pipe would never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file")
    return path


def _digest(stated: Any) -> str:
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
