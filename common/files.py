"""Files and folders that are there whole or not at all, and where caches lie. Nothing else renames into place.

What is written is at first a hidden partial beside its target: `.NAME.TOKEN.partial`, one of its own for each
writer, or `.NAME.partial` for a folder, which has one writer. It is flushed to disk and then renamed, so that no
failure, kill or power cut leaves half of it under its name. A failure removes the partial; a kill leaves it, and
nothing reads it. Every file is flushed: on ext4 that takes 7 ms a file, against 0.5 ms without, 15 s of all of
GenEval's pictures, and a file that is there is taken for a finished one wherever an interrupted run goes on.

All of them have the mode that the umask (or the folder's own defaults) gives to new files: safetensors makes its files
for their owner alone, who is often not the one who serves the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from common.errors import UserError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

SOFTWARE = "VQRAE"
"""What pictures name as their maker."""


@contextmanager
def writing(where: Path | str) -> Iterator[None]:
    """Inside, what cannot be written is a `UserError` of one line: `WHERE: cannot be written: REASON`."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(f"{where}: cannot be written: {reason}") from error


def _reason(error: Exception) -> str | None:
    """Why something could not be written; None if that is not what the error says."""
    # By its name, so that nothing is imported to say so. Tokenizers, written in Rust too, raise plain exceptions.
    kind = type(error)
    from_rust = kind.__name__ == "SafetensorError" or (kind is Exception and "(os error " in str(error))
    if from_rust or isinstance(error, OSError):
        return getattr(error, "strerror", None) or one_line(error)  # the file it names is the partial
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if any(frame.f_globals.get("__name__") == "torch.serialization" for frame in frames):
        return f"the disk may be full ({one_line(error)})"  # torch names the place in the file alone
    return None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` once all is written; folders above it are made.

    Processes that write the same file do not disturb each other; the last one's stays.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    # Cut, so that a name as long as the system allows has room for its token.
    partial = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            mode = _mode_of_new_files(path.parent)
            yield partial
            partial.chmod(mode)
            _flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """An empty folder to write into, which becomes `path` once all is written; folders above it are made.

    One process at a time; several may fill it together, at `partial_of(path)`, if one of them does this. What was
    there before stays until the new folder is on disk.

    Raises:
        UserError: it cannot be written, or is there already and may not be replaced; what is there is untouched.
    """
    if not replace and path.exists():
        raise UserError(f"{path}: is there already; choose another folder, or remove it")
    with writing(path):
        partial = start_folder(path)
        try:
            with obeying_umask(partial):
                yield partial
            settle_folder(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def start_folder(path: Path) -> Path:
    """`partial_of(path)`, empty: the first half of `whole_folder`, for what is filled by others and settled later.

    Raises:
        UserError: it cannot be made.
    """
    partial = partial_of(path)
    with writing(path):
        shutil.rmtree(partial, ignore_errors=True)  # a killed process left it
        partial.mkdir(parents=True)
    return partial


def settle_folder(path: Path) -> None:
    """Flush `partial_of(path)` to disk and put it in the place of `path`.

    Raises:
        UserError: it cannot be written.
    """
    partial, former = partial_of(path), path.with_name(f".{path.name}.former")
    with writing(path):
        for item in (*partial.rglob("*"), partial):
            _flush(item)
        shutil.rmtree(former, ignore_errors=True)
        if path.is_dir():
            path.rename(former)
        partial.rename(path)
        _flush(path.parent)  # before anybody removes what this folder stands for
        shutil.rmtree(former, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is at no time there in part; what cannot be removed is left, hidden."""
    partial = partial_of(path)
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        path.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def obeying_umask(folder: str | Path) -> Iterator[None]:
    """Inside, a library may write files into a folder, which is made if it is not there; then each gets the mode of any
    new file there. What was there before and stays keeps its own.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    before = _files_in(place)
    yield
    mode = _mode_of_new_files(place)
    for path in _files_in(place).items() - before.items():
        path[0].chmod(mode)


def _files_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file, with what tells it from one that was put in its place or written over it."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (is_.st_ino, is_.st_mtime_ns) for path, is_ in found.items() if stat.S_ISREG(is_.st_mode)}


def _mode_of_new_files(folder: Path) -> int:
    # By making one: the umask can only be read by setting it, for all threads at once.
    probe = folder / f".{uuid.uuid4().hex[:8]}.partial"
    try:
        probe.touch()
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def partial_of(folder: Path) -> Path:
    """Where `whole_folder` has a folder written."""
    return folder.with_name(f".{folder.name}.partial")


def write_text(path: Path, text: str) -> None:
    """A whole file in UTF-8; raises `UserError` as `whole_file` does. What is no Unicode, as in a path, is escaped."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any, **options: Any) -> None:
    """A whole file of indented JSON; `options` of `json.dumps`. Raises `UserError` as `whole_file` does."""
    write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n")


def write_png(path: Path, picture: Image, **options: Any) -> None:
    """A whole PNG that says whose it is; `options` of Pillow's encoder. Raises `UserError` as `whole_file` does."""
    from PIL.PngImagePlugin import PngInfo

    notes = options.pop("pnginfo", None) or PngInfo()
    notes.add_text("Software", SOFTWARE)
    with whole_file(path) as partial:
        picture.save(partial, format="PNG", pnginfo=notes, **options)


def cache_file(kind: str, *identity: object, suffix: str) -> Path:
    """The cache file of what was derived from the data that `identity` names.

    Caches lie in `$VQRAE_CACHE`, else in `vqrae` in the XDG cache folder.
    """
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    root = os.environ.get("VQRAE_CACHE") or shared / "vqrae"
    return Path(root, kind, hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest() + suffix)


@contextmanager
def whole_cache(path: Path) -> Iterator[BinaryIO]:
    """A cache file to write into, which is there once all is written.

    Raises:
        UserError: it cannot be written; says where caches may be had instead.
    """
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            yield file
    except UserError as error:
        raise UserError(f"{error}; set VQRAE_CACHE to a folder that can be written") from error


def _flush(item: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    handle = os.open(item, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
