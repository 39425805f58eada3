"""What an engine is after so many steps, as whole tensors with names; and back into an engine of any shape.

    NAME/weight/PARAMETER       float32 master weights of what learns; what is frozen, in its own precision
    NAME/exp_avg/PARAMETER      states of the optimizer, float32: AdamW's exp_avg and exp_avg_sq, Muon's momentum_buffer
    NAME/step/PARAMETER         how often AdamW has stepped it: float32, no dimension
    NAME/buffer/BUFFER          persistent buffers of the module

Which of them there are depends on model and optimizer alone. So what ZeRO-3 on 64 processes has saved, ZeRO-1 on one
can go on from. Weights in low precision are not among them: they are the master weights, cast.

A tensor is whole on one rank at a time, while it is on its way: beside its share of what is kept, a rank needs memory
for the largest parameter in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import dist
from common.errors import UserError
from common.training.engine_layouts import WEIGHT, Layout, Piece, layout_of


class _Entry(NamedTuple):
    """A tensor of an engine, whole.

    Args:
        piece: reads this rank's piece of it. All pieces of all ranks are the whole; where there are none, it is zero.
        write: takes over what this rank holds of the whole, given flattened.
        replicated: every rank holds all of it. held: this one holds something of it.
    """

    key: str
    shape: torch.Size
    dtype: torch.dtype
    piece: Callable[[], Piece | None]
    write: Callable[[Tensor], Any]
    replicated: bool = True
    held: bool = True


def engine_tensors(engine: Any, name: str, frozen: bool = True) -> Iterator[tuple[str, Tensor | None]]:
    """Key and tensor of all that `engine` is. A collective: every rank walks through all of it, and gets each tensor, a
    copy on the CPU, on the rank that is to keep it; None on the others.

    Args:
        name: of the engine, the first part of each key.
        frozen: with the parameters that do not learn.
    """
    entries = list(_entries(engine.module, layout_of(engine), name, frozen))
    owners = share_out({entry.key: entry.shape.numel() for entry in entries}, dist.world())
    for entry in entries:
        yield entry.key, _collected(entry, owners[entry.key], engine.device)


@torch.no_grad()
def load_engine_tensors(
    engine: Any, name: str, read: Callable[[str], Tensor], frozen: bool = True, source: str = "tensors"
) -> None:
    """Make `engine` what `engine_tensors` told of another. All ranks call it together.

    Args:
        read: key -> the whole tensor. A rank asks only for those that it holds something of.
        source: where it reads, for the error.

    Raises:
        UserError: a tensor has another shape; or what `read` raises.
    """
    layout = layout_of(engine)
    layout.prepare()
    for entry in _entries(engine.module, layout, name, frozen):
        if entry.held:
            value = read(entry.key)
            if value.shape != entry.shape:
                sides = f"the recipe's is {_sides(entry.shape)}, the checkpoint's {_sides(value.shape)}"
                raise UserError(f"{source}: {entry.key}: {sides}")
            entry.write(value.flatten())
    layout.settle()


def engine_numbers(engine: Any) -> dict[str, int]:
    """Beside its tensors: the steps that the engine took, and those of them that it dropped."""
    return {"steps": engine.global_steps, "dropped": engine.skipped_steps}


def load_engine_numbers(engine: Any, numbers: dict[str, int]) -> None:
    """What `engine_numbers` gave."""
    engine.global_steps, engine.skipped_steps = numbers["steps"], numbers["dropped"]


def share_out(sizes: dict[str, int], ranks: int) -> dict[str, int]:
    """Name -> owning rank, the largest first to whoever has least."""
    load = [0] * ranks
    owner = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner[name] = load.index(min(load))
        load[owner[name]] += sizes[name]
    return owner


def _entries(module: nn.Module, layout: Layout, name: str, frozen: bool) -> Iterator[_Entry]:
    """All tensors, in an order that is the same on every rank; tied parameters once, under their first name."""
    for title, parameter in module.named_parameters():
        if layout.learns(parameter):
            yield from _learned(layout, name, title, parameter)
        elif frozen or parameter.requires_grad:
            yield _still(f"{name}/{WEIGHT}/{title}", parameter, layout)
    for prefix, part in module.named_modules():
        for title, buffer in part.named_buffers(prefix, recurse=False):
            if title.rpartition(".")[2] not in part._non_persistent_buffers_set:
                yield _still(f"{name}/buffer/{title}", buffer, layout)


def _learned(layout: Layout, name: str, title: str, parameter: Any) -> Iterator[_Entry]:
    for key in (WEIGHT, *layout.keys(parameter)):
        yield _Entry(
            f"{name}/{key}/{title}",
            getattr(parameter, "ds_shape", parameter.shape),
            torch.float32,
            partial(layout.read, parameter, key),
            partial(layout.write, parameter, key),
            layout.replicated,
            layout.holds(parameter, key),
        )
    if layout.steps(parameter) is not None:
        yield _Entry(
            f"{name}/step/{title}",
            torch.Size(()),
            torch.float32,
            lambda: Piece(0, torch.tensor([layout.steps(parameter)])),
            lambda steps: layout.set_steps(parameter, float(steps)),
        )


def _still(key: str, tensor: Any, layout: Layout) -> _Entry:
    """Of a frozen parameter or a buffer."""
    piece = layout.piece_of_frozen(tensor)
    if piece is None:
        whole, shape = tensor.detach(), tensor.shape
        return _Entry(
            key,
            shape,
            tensor.dtype,
            lambda: Piece(0, whole.reshape(-1)),
            lambda value: whole.copy_(value.view(shape)),
        )
    return _Entry(key, tensor.ds_shape, tensor.dtype, lambda: piece, piece.take, False, len(piece.values) > 0)


def _collected(entry: _Entry, owner: int, device: torch.device) -> Tensor | None:
    """The whole tensor on rank `owner`."""
    mine = dist.rank() == owner
    if entry.replicated and not mine:
        return None
    piece = entry.piece()
    whole = torch.zeros(entry.shape.numel(), dtype=entry.dtype, device=device)
    if piece is not None:
        piece.give(whole)
    if not entry.replicated:
        # Pieces do not overlap, so a sum of bytes is the whole, bit for bit.
        dist.reduce_(whole.view(torch.uint8), owner)
    return whole.view(entry.shape).cpu() if mine else None


def _sides(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "one number"
