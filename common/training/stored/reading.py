"""Which checkpoint a run goes on from: the newest whole one, verified, on which all ranks agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from torch import Tensor

from common import dist
from common.errors import UserError, refusing
from common.training.stored.manifest import (
    RECORD,
    Files,
    NotWhole,
    check_hash,
    check_sizes,
    read_manifest,
    step_of,
)
from common.training.stored.pickled import refuse_pickled

LATEST = "latest"
CONVERTED = "converted_from"
"""In the record of what `scripts.convert_checkpoint` wrote: weights alone."""
Value = TypeVar("Value")


class Checkpoint:
    """A whole checkpoint; a tensor comes into memory when it is read.

    Args:
        path: `RUN/checkpoints/step_00001000`.

        files: what its manifest lists; read from there unless given.

    Raises:
        NotWhole: its manifest is not there, or damaged. What it lists is verified by `verify` and `newest_whole`.
    """

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self.path, self.files = path, read_manifest(path) if files is None else files
        self._file_of = {key: name for name, file in self.files.items() for key in file.keys}
        self._open: dict[str, Any] = {}

    @property
    def step(self) -> int:
        """Optimizer steps that were done."""
        step = step_of(self.path.name)
        assert step is not None  # or the manifest would not be this folder's
        return step

    @cached_property
    def record(self) -> dict[str, Any]:
        """All that is no tensor."""
        with refusing(f"{self.path / RECORD}: cannot be read", OSError, ValueError):
            return json.loads((self.path / RECORD).read_bytes())

    def keys(self) -> list[str]:
        """The names of all tensors."""
        return list(self._file_of)

    def read(self, key: str) -> Tensor:
        """A whole tensor, on the CPU.

        Raises:
            UserError: there is none of that name.
        """
        name = self._file_of.get(key)
        if name is None:
            raise UserError(f"{self.path}: holds no {key}; it was saved by another recipe")
        with refusing(f"{self.path / name}: cannot be read"):
            if name not in self._open:
                self._open[name] = safe_open(self.path / name, framework="pt")
            return self._open[name].get_tensor(key)

    def verify(self) -> None:
        """In this process alone. Raises `NotWhole` for the first file that is not as it was written."""
        check_sizes(self.path, self.files)
        for name, file in self.files.items():
            check_hash(self.path, name, file)


def steps_in(folder: Path) -> list[Path]:
    """All that bears a checkpoint's name in `RUN/checkpoints`, newest first."""
    if not folder.is_dir():
        return []
    found = [(step_of(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return [path for _, path in sorted((pair for pair in found if pair[0] is not None), reverse=True)]


def newest_whole(folder: Path, say: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The checkpoint that `latest` names in `RUN/checkpoints`, or the newest whole one before it; None if there is none
    of any kind. Writes nothing. All ranks call it together: rank 0 looks, each verifies its part of the files.

    Args:
        say: what is told of those that are not whole; by default a line on stderr.

    Raises:
        UserError: there are checkpoints, and none is whole; or they are of an older or newer format.
    """
    say = say or _warn
    candidates, problem = dist.from_main(lambda: _candidates(folder))
    if problem and dist.is_main():
        say(problem)
    problems = [problem] if problem else []
    for path in candidates:
        try:
            checkpoint = _verified(path)
        except NotWhole as error:
            problems.append(str(error))
            if dist.is_main():
                say(str(error))
            continue
        if problems and dist.is_main():
            say(f"{path}: whole; going on from this one instead")
        return checkpoint
    if candidates or problems:
        raise UserError(
            f"{folder}: no whole checkpoint is left ({problems[0]}); restore one, or remove the folder to start anew"
        )
    return None


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _candidates(folder: Path) -> tuple[list[Path], str | None]:
    """Newest first, and what is wrong with `latest`."""
    there = steps_in(folder)
    pointer = folder / LATEST
    if not there and not pointer.exists():
        return [], None
    try:
        named = pointer.read_bytes().decode("ascii").strip()
    except FileNotFoundError:
        return there, f"{pointer}: absent; looking for the newest checkpoint"
    except (OSError, UnicodeDecodeError) as error:
        return there, f"{pointer}: cannot be read ({type(error).__name__}); looking for the newest checkpoint"
    step = step_of(named)
    if step is None:
        return there, f"{pointer}: names {named[:100]!r}, which is no checkpoint; looking for the newest one"
    before = [path for path in there if (step_of(path.name) or 0) <= step]
    if folder / named in there:
        return before, None
    return before, f"{pointer}: names {named}, which is not there; looking for one before it"


def _verified(path: Path) -> Checkpoint:
    """Raises `NotWhole` on every rank if any rank found a file that is not as it was written."""
    files = _together(lambda: _listed(path) if dist.is_main() else None)[0]
    assert files is not None
    _together(lambda: _check_hashes(path, _part(files)))
    return Checkpoint(path, files)


def _listed(path: Path) -> Files:
    refuse_pickled(path)
    files = read_manifest(path)
    check_sizes(path, files)
    return files


def _part(files: Files) -> Files:
    """This rank's part of the files: the largest first to whoever has least."""
    load = [0] * dist.world()
    mine: Files = {}
    for name in sorted(files, key=lambda name: (-files[name].bytes, name)):
        rank = load.index(min(load))
        load[rank] += files[name].bytes
        if rank == dist.rank():
            mine[name] = files[name]
    return mine


def _check_hashes(path: Path, files: Files) -> None:
    for name, file in files.items():
        check_hash(path, name, file)


def _together(check: Callable[[], Value]) -> list[Value]:
    """What each rank found, on every rank; what any of them raised, the first of them, is raised on all."""
    value, problem = None, None
    try:
        value = check()
    except UserError as error:
        problem = type(error), str(error)
    found = dist.gather_objects((value, problem))
    for _, raised in found:
        if raised is not None:
            kind, line = raised
            raise kind(line)
    return [value for value, _ in found]
