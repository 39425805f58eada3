"""A rank's share of a checkpoint's tensors, written as safetensors files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from common.errors import UserError
from common.files import whole_file
from common.training.stored.manifest import Files, stored_file

FILE_BYTES = 1 << 30
"""Tensors are gathered up to this size before a file is written: what a save in the foreground holds in memory."""


Tensors = Iterable[tuple[str, Tensor | None]]
"""Every key once, in one order on all ranks; the tensor on the rank that is to write it, None on the others."""


class Own:
    """This rank's share of `tensors`, which may be collectives, so that all must be gone through.

    Attributes:
        keys: of all tensors that have passed, whoever writes them.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.keys: set[str] = set()
        self._rest = iter(tensors)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for key, tensor in self._rest:
            self.keys.add(key)
            if tensor is not None:
                yield key, tensor

    def drain(self) -> None:
        """Go through what is left: this rank writes no more, but the others wait for it."""
        for _ in self._rest:
            pass


def write_share(folder: Path, rank: int, tensors: Iterable[tuple[str, Tensor]]) -> Files:
    """Write them on disk, in files of about `FILE_BYTES` at most (but one tensor is never cut); their sizes and hashes.

    Raises:
        UserError: a file cannot be written.
    """
    files: Files = {}
    for number, group in enumerate(_groups(tensors)):
        path = folder / f"weights_rank{rank:05d}_{number:05d}.safetensors"
        with whole_file(path) as partial:
            save_file(group, partial)
        files[path.name] = stored_file(path, group)
    return files


def all_files(shares: Iterable[Files], expected: set[str]) -> Files:
    """The shares of all ranks together, with the tensors of these keys.

    Raises:
        UserError: a tensor was written by more than one of them, or by none.
    """
    files: Files = {}
    keys: set[str] = set()
    for share in shares:
        for name, file in share.items():
            if twice := keys & set(file.keys):
                raise UserError(f"{name}: {min(twice)}: another rank saved it, too")
            keys |= set(file.keys)
            files[name] = file
    if lost := expected - keys:
        raise UserError(f"{min(lost)}: no rank gave it to be saved")
    return files


def _groups(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    memory: set[int] = set()
    held = 0
    for key, given in tensors:
        if key in group:
            raise UserError(f"{key}: given twice to be saved")
        tensor = given.detach().cpu().contiguous()
        if tensor.nbytes and tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()  # safetensors holds that two names for the same memory are an oversight
        memory.add(tensor.untyped_storage().data_ptr())
        if group and held + tensor.nbytes > FILE_BYTES:
            yield group
            group, memory, held = {}, set(), 0
        group[key] = tensor
        held += tensor.nbytes
    if group:
        yield group
