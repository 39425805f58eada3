"""Checkpoints of versions before the format of `manifest`: DeepSpeed's pickles, `state_rank00000.pt` beside them.

No run goes on from them. `Pickled` reads their weights and moving averages for `scripts.convert_checkpoint`, with
torch's restricted unpickler: of what a file names, tensors and plain containers are made, and DeepSpeed's own classes
are empty shells; anything else ends the reading. The layouts are those that DeepSpeed's `zero_to_fp32.py` merges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, refusing
from common.training.stored.manifest import MANIFEST, step_of

CONVERTER = "python -m scripts.convert_checkpoint"
OF_DEEPSPEED = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
MISFITS = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError)
"""What it raises to take something for what it is not."""


def is_pickled(folder: Path) -> bool:
    """Whether an earlier version wrote the checkpoint `folder`: engines' folders and `state_rank00000.pt`."""
    return not (folder / MANIFEST).exists() and any(
        (*folder.glob("state_rank*.pt"), *folder.glob("*/*_model_states.pt"))
    )


def refuse_pickled(folder: Path) -> None:
    """Raises `UserError`, which names the command that converts it."""
    if is_pickled(folder):
        raise UserError(
            f"{folder}: written by an earlier version, as pickle, which is not read; "
            f"`{CONVERTER} {folder.parent.parent}` converts it"
        )


class Pickled:
    """A checkpoint of an earlier version.

    Args:
        folder: `RUN/checkpoints/step_00001000`.

    Raises:
        UserError: it is none.
    """

    def __init__(self, folder: Path) -> None:
        if not is_pickled(folder):
            raise UserError(f"{folder}: no checkpoint of an earlier version")
        self.folder = folder

    @property
    def step(self) -> int:
        step = step_of(self.folder.name)
        if step is None:
            raise UserError(f"{self.folder}: expected a folder named step_ and eight digits")
        return step

    def facts(self) -> dict[str, str]:
        """What the run depended on beside its weights, such as the hash of a frozen model; but for the tower's, which
        counted a head that is not kept any more.

        Raises:
            UserError: a file is damaged, or holds what would be executed.
        """
        first = self.folder / "state_rank00000.pt"
        state = _load(first) if first.is_file() else {}
        return {name: value for name, value in state.items() if isinstance(value, str) and name != "tower"}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights, buffers and averages, under the names of today's format (see `engine_state`).

        Raises:
            UserError: a file is damaged, of a layout that is not known, or holds what would be executed.
        """
        for engine in sorted(path.parent for path in self.folder.glob("*/*_model_states.pt")):
            yield from _Engine(engine).tensors()
        for path in sorted(self.folder.glob("state_rank*.pt")):
            average = _load(path).get("ema")
            if average is not None:  # each rank kept its own part
                with refusing(f"{path}: ema: not as we wrote it", *MISFITS):
                    yield from ((f"part/ema/{name}", value) for name, value in average["shadow"].items())


class _Engine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        return [_load(path) for path in _by_rank(self.folder.glob("*_model_states.pt"))]

    @cached_property
    def groups(self) -> list[dict[str, Any]]:
        """What each rank's optimizer held."""
        files = _by_rank(self.folder.glob("*_optim_states.pt"))
        return [dict(_load(path)["optimizer_state_dict"]) for path in files]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        with refusing(
            f"{self.folder}: not as DeepSpeed wrote it", KeyError, TypeError, RuntimeError, IndexError
        ):
            model = self.models[0]
            buffers, tied = set(model["buffer_names"]), model["shared_params"] or {}
            masters = dict(self._masters())
            for name, tensor in {**model["module"], **masters}.items():
                if name not in tied and tensor.numel():
                    kind = "buffer" if name in buffers else "weight"
                    yield f"{self.folder.name}/{kind}/{name}", tensor

    def _masters(self) -> Iterator[tuple[str, Tensor]]:
        """The float32 weights that optimizers kept, and at stage 3 what is frozen, too."""
        shapes = list(self.models[0]["param_shapes"] or ())
        if not self.groups or not shapes:
            return
        if "fp32_flat_groups" in self.groups[0]:
            whole = {name: shape for group in shapes for name, shape in group.items()}
            yield from _dealt(whole, [torch.cat(rank["fp32_flat_groups"]) for rank in self.groups])
            for name, shape in (self.models[0]["frozen_param_shapes"] or {}).items():
                pieces = [rank["frozen_param_fragments"][name].flatten() for rank in self.models]
                yield name, torch.cat(pieces)[: shape.numel()].view(shape)
            return
        for number, group in enumerate(shapes):
            flat = torch.cat([rank["single_partition_of_fp32_groups"][number] for rank in self.groups])
            offset = 0
            for name, shape in group.items():
                yield name, flat[offset : offset + shape.numel()].view(shape)
                offset += shape.numel()


def _dealt(shapes: dict[str, torch.Size], flat: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Stage 3: each parameter is cut into as many pieces as there are ranks, the last one padded."""
    offset = 0
    for name, shape in shapes.items():
        piece = math.ceil(shape.numel() / len(flat))
        pieces = [rank[offset : offset + piece] for rank in flat]
        yield name, torch.cat(pieces)[: shape.numel()].view(shape)
        offset += piece


def _by_rank(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])


class _Shell:
    """Stands for an object of DeepSpeed's that nobody looks at."""

    def __new__(cls, *_: Any, **__: Any) -> _Shell:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _load(path: Path) -> dict[str, Any]:
    shells = [(type(name.rpartition(".")[2], (_Shell,), {}), name) for name in OF_DEEPSPEED]
    with refusing(f"{path}: cannot be read"), torch.serialization.safe_globals(shells):  # type: ignore[arg-type]
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise UserError(f"{path}: expected a dict, found {type(state).__name__}")
        return state
