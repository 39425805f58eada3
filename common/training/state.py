"""What a checkpoint holds, the same for all trainers: engines, the small parts beside them, facts, random numbers.

Everything else that a step depends on follows from its number: learning rates, the order of the data, what is left
out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from common import dist
from common.errors import UserError
from common.training.checkpoint import Checkpoints, read_state
from common.training.engine import load_engine
from common.training.progress import Progress


class Part(Protocol):
    """Something small that changes while training; each rank saves its own."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


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
        engines: DeepSpeed engines, each with its weights, optimizer and schedule.
        parts: what else changes.
        progress: where the run stands.
        facts: what must not have changed on resume.
        without_frozen: the engines whose frozen parameters are not saved, since they come from elsewhere.
    """

    def __init__(
        self,
        engines: Mapping[str, Any],
        parts: Mapping[str, Part | None],
        progress: Progress,
        facts: Mapping[str, Fact] | None = None,
        without_frozen: Collection[str] = (),
    ) -> None:
        self.engines = {name: engine for name, engine in engines.items() if engine is not None}
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.progress = progress
        self.facts, self.without_frozen = dict(facts or {}), without_frozen

    def save(self, checkpoints: Checkpoints) -> None:
        """All ranks call it together.

        Raises:
            UserError: it could not be written.
        """
        step, position = self.progress.step, self.progress.position
        state: dict[str, Any] = {"step": step, "position": position, "random": _random_state()}
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        state |= {name: fact.value for name, fact in self.facts.items()}

        def write(folder: Path) -> None:
            for name, engine in self.engines.items():
                engine.save_checkpoint(
                    str(folder),
                    tag=name,
                    save_latest=False,
                    exclude_frozen_parameters=name in self.without_frozen,
                )

        checkpoints.save_folder(step, write, state)

    def load(self, checkpoint: Path) -> None:
        """Go back to a checkpoint, random numbers last. All ranks call it together.

        Raises:
            UserError: it was saved by another recipe or number of ranks, or a fact was another.
        """
        state = read_state(checkpoint, dist.rank())
        for name in (*self.facts, *self.parts):
            if name not in state:
                raise UserError(f"{checkpoint}: holds no {name}; it was saved by another recipe")
        for name, fact in self.facts.items():
            fact.check(state[name], str(checkpoint))
        for name, engine in self.engines.items():
            load_engine(engine, checkpoint, name, strict=name not in self.without_frozen)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        _set_random_state(state["random"])
        self.progress.step, self.progress.position = state["step"], state["position"]

    def go_back(self, checkpoints: Checkpoints) -> None:
        """To the newest checkpoint, but for the data, which goes on from where it is. All ranks call it together.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        newest = checkpoints.latest()
        if newest is None:
            raise UserError("guard.rollback: there is no checkpoint yet to go back to")
        position = self.progress.position
        self.load(newest)
        self.progress.position = position


def _random_state() -> dict[str, Any]:
    """This process's torch generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
