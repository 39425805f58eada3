"""The guard: which steps were bad, and when they are too many.

A step is bad if its engine dropped it (a gradient was not finite, see `dropped_steps`; or its loss was a
spike, see `spikes`) or if a loss term was not finite. A bad step changes no weight, so a run goes on after
one; after many in a row, or too large a share, it ends with the last good checkpoint kept, or goes back to it
once and leaves out the data since. Weights that are not finite end it at once: no step could mend them. What
is not finite is never saved.

What happened is known from flags: those of DeepSpeed's own optimizers on the host, all others on the device,
where they stay until a line is due, a checkpoint is, or an engine says that it dropped a step. All ranks
decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common import dist
from common.config import Count, Share, configclass
from common.errors import UserError
from common.training import finite
from common.training.bad_steps import HERE, LOSS, SPIKE, Seen, some, told
from common.training.dropped_steps import PlainStep, Sentinel, watch_dropped_steps
from common.training.metrics import Terms
from common.training.spikes import SpikeConfig, SpikeWatch


class BadSteps(UserError):
    """Too many steps were not finite, or a weight is not."""


@configclass
class GuardConfig:
    """What a run does about steps that are not finite.

    Args:
        max_in_a_row: the run ends with so many bad steps in a row.
        max_share: it ends when more than this share of the last `window` steps were bad.
        rollback: instead of ending, it goes back to the last checkpoint, once, and leaves out the data up to the last
            bad step.
        spikes: also drop steps whose loss is a spike; null drops none.
    """

    max_in_a_row: Count = 10
    max_share: Share = 0.1
    window: Count = 200
    rollback: bool = False
    spikes: SpikeConfig | None = None


class Guard:
    """Watches the steps of a run's engines.

    Each step: `start_step`, for each micro-step `see` (and `veto` before the backward pass), then `end_step`. A step
    that updates its weights several times says `end_update` after each but the last.

    Args:
        engines: DeepSpeed engines by name, as in the run's checkpoints; the first one's dropped steps are those of the
            metrics' `skipped_steps`. None stands for what the recipe does not have.
        terms: the loss terms of these steps.
        beside: what else must be finite to be saved, by name: modules, or what has a `shadow` of tensors.
    """

    def __init__(
        self,
        config: GuardConfig,
        engines: Mapping[str, Any],
        terms: Terms,
        device: torch.device,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.terms = config, terms
        self.engines = {name: engine for name, engine in engines.items() if engine is not None}
        self.beside = {name: part for name, part in (beside or {}).items() if part is not None}
        self.dropped = {name: watch_dropped_steps(engine) for name, engine in self.engines.items()}
        self.sentinels = {name: Sentinel(engine.module, device) for name, engine in self.engines.items()}
        self.spikes = SpikeWatch(config.spikes, device) if config.spikes is not None else None
        self.counts = dict.fromkeys((*self.engines, LOSS, SPIKE), 0)
        self.bad: list[int] = []
        """The bad steps of the last `window`, in order."""
        self.rollbacks = 0
        self.latest = ""  # what was said of the latest bad steps
        self._pending: list[tuple[int, dict[str, Tensor | bool]]] = []  # steps whose flags were not read
        # Of the pending steps, this rank's samples, and how to name them.
        self._keys: dict[int, list[tuple[Callable[[Any], str], Any]]] = {}
        self._taken: dict[str, int] = {}
        self._dropped = False  # whether an engine has said so of an update of this step

    # --- A step

    def start_step(self, step: int) -> None:
        """`step` counts from 1."""
        self.step = step
        self._taken = {name: engine.global_steps for name, engine in self.engines.items()}
        self._keys[step] = []

    def see(self, keys: Iterable[Any], name: Callable[[Any], str] = str) -> None:
        """The samples of a micro-step; `name` names them if the step was bad."""
        self._keys[self.step] += [(name, key) for key in keys]

    def veto(self, engine: Any, loss: Tensor) -> Tensor:
        """The loss of a micro-step to go backward from; NaN if the step is a spike and the recipe drops those."""
        if self.spikes is None:
            return loss
        return self.spikes.veto(loss, last=engine.is_gradient_accumulation_boundary())

    def end_step(self, look: bool, saving: bool = False) -> bool:
        """After the step of every engine; all ranks together. True: go back to the last checkpoint,
        within `going_back`.

        Args:
            look: read the flags on the device, since the host waits for it anyway.
            saving: a checkpoint is due, so look at everything that it holds.

        Raises:
            BadSteps: too many of them, or weights that are not finite.
        """
        self.end_update()
        known_on_host, self._dropped = self._dropped, False
        if not (look or saving or known_on_host):
            return False
        found = self._read()
        broken = self._broken(saving) if look or saving or found else []
        problem = self._problem(broken)
        if problem is None:
            return False
        if self.config.rollback and not self.rollbacks:
            self.say(f"{problem}; going back to the last checkpoint")
            return True
        raise BadSteps(problem)

    def end_update(self) -> None:
        """After every engine's update; what is known of it waits for the end of the step."""
        flags: dict[str, Tensor | bool] = {LOSS: self.terms.end_step()}
        if self.spikes is not None:
            flags[SPIKE] = self.spikes.spike
        for name, engine in self.engines.items():
            if engine.global_steps == self._taken[name]:
                continue  # this one took no step
            self._taken[name] = engine.global_steps
            flags[name + HERE] = self.sentinels[name].end_step()
            if isinstance(self.dropped[name], PlainStep):
                flags[name] = engine.optimizer.found_inf
            elif not engine.was_step_applied():
                flags[name] = self._dropped = True
        self._pending.append((self.step, flags))

    @property
    def healthy(self) -> bool:
        """Whether the latest step was good, as far as the flags have been read."""
        return not self.bad or self.bad[-1] != self.step

    @contextmanager
    def going_back(self) -> Iterator[None]:
        """Around what makes the run's state that of the last checkpoint again; its counts go on."""
        counts, rollbacks = dict(self.counts), self.rollbacks + 1
        yield
        self.counts, self.rollbacks = counts, rollbacks
        self.bad = []
        self._pending, self._keys = [], {}
        self._dropped = False
        self.terms.clear()

    def line(self) -> dict[str, float]:
        """Over the whole run, for the metrics: steps that were dropped, and steps with a loss that was not finite."""
        first, *others = self.engines
        values = {"skipped_steps": self.counts[first]}
        values |= {f"skipped_steps_{name}": self.counts[name] for name in others}
        values["nonfinite_losses"] = self.counts[LOSS]
        if self.spikes is not None:
            values["spikes"] = self.counts[SPIKE]
        if self.config.rollback:
            values["rollbacks"] = self.rollbacks
        return {name: float(value) for name, value in values.items()}

    @staticmethod
    def say(text: str) -> None:
        if dist.is_main():
            tqdm.write(text)

    # --- What a checkpoint holds of it; the same on all ranks

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        state: dict[str, Any] = {
            "counts": dict(self.counts),
            "bad": list(self.bad),
            "rollbacks": self.rollbacks,
        }
        if self.spikes is not None:
            state["spikes"] = self.spikes.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts |= {name: count for name, count in state["counts"].items() if name in self.counts}
        self.bad, self.rollbacks = list(state["bad"]), state["rollbacks"]
        if self.spikes is not None and "spikes" in state:
            self.spikes.load_state_dict(state["spikes"])

    # --- Reading and deciding

    def _read(self) -> bool:
        """The flags of all pending steps, from all ranks; whether one was bad, which is then said."""
        every = [(step, cause, flag) for step, flags in self._pending for cause, flag in flags.items()]
        on_device = [flag.float() for *_, flag in every if isinstance(flag, Tensor)]
        values = iter(torch.stack(on_device).tolist())
        mine: dict[int, set[str]] = {}
        for step, cause, flag in every:
            if next(values) if isinstance(flag, Tensor) else flag:
                mine.setdefault(step, set()).add(cause)
        seen = Seen(
            causes=mine,
            terms=self.terms.take_bad() if mine else {},
            gradients={name: self._names(name) for name in self.dropped} if mine else {},
            keys={step: [name(key) for name, key in self._keys.get(step, ())] for step in mine},
        )
        self._pending, self._keys = [], {}
        ranks = dist.gather_objects(seen)
        causes: dict[int, set[str]] = {}
        for step, found in ((step, found) for rank in ranks for step, found in rank.causes.items()):
            causes.setdefault(step, set()).update(found & self.counts.keys())
        for found in causes.values():
            for cause in found:
                self.counts[cause] += 1
        self.bad = [step for step in sorted({*self.bad, *causes}) if step > self.step - self.config.window]
        if causes:
            self.latest = told(causes, ranks)
            self.say(f"warning: {self.latest}")
        return bool(causes)

    def _names(self, engine: str) -> list[str]:
        """Parameters whose gradient was not finite, on this rank."""
        names = {id(p): name for name, p in self.engines[engine].module.named_parameters()}
        return [names[id(parameter)] for parameter in self.dropped[engine].take_bad()]

    def _broken(self, saving: bool) -> list[str]:
        """What is not finite and no step could mend, as `NAME on rank R`, from all ranks."""
        mine: list[str] = []
        for name, engine in self.engines.items():
            tensors = [*finite.weights(engine), *(finite.optimizer_tensors(engine) if saving else ())]
            mine += [f"{name}: {what}" for what in finite.not_finite(tensors)]
        for name, part in self.beside.items():
            held = part.state_dict() if isinstance(part, torch.nn.Module) else part.shadow
            mine += [f"{name}: {what}" for what in finite.not_finite(held.items())]
        return [
            f"{what} on rank {rank}" for rank, names in enumerate(dist.gather_objects(mine)) for what in names
        ]

    def _problem(self, broken: list[str]) -> str | None:
        """Why the run cannot go on."""
        if broken:
            return f"step {self.step}: not finite: {some(broken)}" + (
                f"; {self.latest}" if self.latest else ""
            )
        in_a_row = 0
        while self.step - in_a_row in self.bad:
            in_a_row += 1
        if in_a_row >= self.config.max_in_a_row:
            return f"guard.max_in_a_row: {in_a_row} bad steps in a row; the latest: {self.latest}"
        allowed = self.config.max_share * self.config.window
        if len(self.bad) > allowed:
            window = self.config.window
            return (
                f"guard.max_share: {len(self.bad)} of the last {window} steps were bad, more than "
                f"{self.config.max_share:.0%}; the latest: {self.latest}"
            )
        return None
