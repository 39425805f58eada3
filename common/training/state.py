"""What a checkpoint holds, the same for all trainers: engines, the small parts beside them, facts, progress.

All of it is the run's and none of it a rank's, so that another number of ranks can go on. What else a step depends on
follows from its number: learning rates, the order of the data, what is left out of it, what is drawn at random.

    ENGINE/weight/PARAMETER ...     tensors of an engine, see `engine_state`
    part/NAME/...                   tensors of a part
    record                          numbers: step, position, world; of engines, of parts; facts
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from common import dist
from common.config import plain
from common.errors import UserError
from common.training.checkpoint import Checkpoint, Checkpoints
from common.training.engine_state import (
    engine_numbers,
    engine_tensors,
    load_engine_numbers,
    load_engine_tensors,
)
from common.training.progress import Progress


class Part(Protocol):
    """Something small that changes while training."""

    def state_dict(self) -> dict[str, Any]:
        """What is the same on all ranks: numbers, strings, lists of them, tensors. May be a collective."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@runtime_checkable
class ShardedPart(Part, Protocol):
    """One whose tensors are shared out over the ranks."""

    def begin(self) -> None:
        """From the engines as they are now."""
        ...

    def tensors(self) -> Iterator[tuple[str, Tensor | None]]:
        """Names, the same on all ranks, and tensors: each on one rank, None on the others."""
        ...

    def load_tensors(self, read: Callable[[str], Tensor], /) -> None:
        """Take this rank's share, however many ranks there were."""
        ...


@dataclass(frozen=True)
class Fact:
    """What a run depends on and no checkpoint holds, such as the hash of a frozen model.

    Args:
        value: what it is in this run.
        check: `(saved value, checkpoint)`; raises `UserError` where the saved one is another.
    """

    value: str
    check: Callable[[str, str], None]


class TrainingState:
    """All that changes while a model trains, with one way to save it and one to resume it.

    The names are those under which things stand in a checkpoint; None stands for what the recipe does not have.

    Args:
        engines: DeepSpeed engines, each with its weights and optimizer.
        parts: what else changes.
        progress: where the run stands; `load` sets it.
        facts: what must not have changed on resume.
        without_frozen: the engines whose frozen parameters are not saved, since they come from elsewhere.
        recipe: what the run is trained with; the next start compares its own with it (`recipe_change`).
    """

    def __init__(
        self,
        engines: Mapping[str, Any],
        parts: Mapping[str, Part | None],
        progress: Progress,
        facts: Mapping[str, Fact] | None = None,
        without_frozen: Collection[str] = (),
        recipe: Any = None,
    ) -> None:
        self.engines = {name: engine for name, engine in engines.items() if engine is not None}
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.progress = progress
        self.facts, self.without_frozen = dict(facts or {}), without_frozen
        self.recipe = plain(recipe)

    def save(self, checkpoints: Checkpoints) -> None:
        """All ranks call it together, between steps.

        Raises:
            UserError: it could not be written.
        """
        states = {name: part.state_dict() for name, part in self.parts.items()}
        record = {
            "step": self.progress.step,
            "position": self.progress.position,
            "world": dist.world(),
            "engines": {name: engine_numbers(engine) for name, engine in self.engines.items()},
            "parts": {name: _numbers(state) for name, state in states.items()},
            "facts": {name: fact.value for name, fact in self.facts.items()},
            "recipe": self.recipe,
        }
        checkpoints.save(self.progress.step, self._tensors(states), record)

    def load(self, checkpoint: Checkpoint) -> list[str]:
        """Go back to a checkpoint. All ranks call it together. Returns what a user should know of it.

        An engine or a part that it does not hold begins anew, where the recipe was changed since (`check_recipe` has
        seen to it that the change was asked for).

        Raises:
            UserError: it was saved by another recipe, or a fact was another.
        """
        record = checkpoint.record
        changed = record.get("recipe") not in (None, self.recipe)
        new = [
            name for kind in ("engines", "parts") for name in getattr(self, kind) if name not in record[kind]
        ]
        lacking = [name for name in self.facts if name not in record["facts"]] + ([] if changed else new)
        if lacking:
            raise UserError(f"{checkpoint.path}: holds no {lacking[0]}; it was saved by another recipe")
        for name, fact in self.facts.items():
            fact.check(record["facts"][name], str(checkpoint.path))
        for name, engine in self.engines.items():
            if name in new:
                continue
            frozen = name not in self.without_frozen
            load_engine_tensors(engine, name, checkpoint.read, frozen, str(checkpoint.path))
            load_engine_numbers(engine, record["engines"][name])
        for name, part in self.parts.items():
            if name not in new:
                _load_part(part, name, record["parts"][name], checkpoint)
            elif isinstance(part, ShardedPart):
                part.begin()
        self.progress.step, self.progress.position = record["step"], record["position"]
        return [f"{checkpoint.path}: holds no {name}, which begins anew" for name in new]

    def go_back(self, checkpoints: Checkpoints) -> None:
        """To the newest checkpoint, but for the data, which goes on from where it is. All ranks call it together.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        newest = checkpoints.newest()
        if newest is None:
            raise UserError("guard.rollback: there is no checkpoint yet to go back to")
        position = self.progress.position
        self.load(newest)
        self.progress.position = position

    def _tensors(self, states: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Tensor | None]]:
        """Copies of all tensors, each on the rank that is to write it."""
        for name, engine in self.engines.items():
            yield from engine_tensors(engine, name, name not in self.without_frozen)
        for name, part in self.parts.items():
            tensors: dict[str, Tensor | None] = _tensors(states[name])
            if not dist.is_main():
                tensors = dict.fromkeys(tensors)
            if isinstance(part, ShardedPart):
                tensors |= dict(part.tensors())
            for key, tensor in tensors.items():
                yield f"part/{name}/{key}", None if tensor is None else tensor.detach().to("cpu", copy=True)


def _load_part(part: Part, name: str, numbers: dict[str, Any], checkpoint: Checkpoint) -> None:
    def read(key: str) -> Tensor:
        return checkpoint.read(f"part/{name}/{key}")

    part.load_state_dict({**numbers, **{key: read(key) for key in _tensors(part.state_dict())}})
    if isinstance(part, ShardedPart):
        part.load_tensors(read)


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _numbers(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not isinstance(value, Tensor)}
