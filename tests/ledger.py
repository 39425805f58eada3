"""Which samples a run trains on, and in which step: noted where they are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from common.data.stream import ImageStream
from common.training.state import TrainingState
from generation.dataset import CodeStream
from understanding.dataset import ConversationDataset

Ledger = list[tuple[int, int]]
"""(steps done when it was read, position or index) of each sample."""


@contextlib.contextmanager
def ledger(states: list[TrainingState]) -> Iterator[Ledger]:
    """What this process reads inside, without workers, once the last of `states` is there: what trains."""
    read: Ledger = []

    def noting(reader: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
        def note(self: Any, number: int) -> Any:
            if states:
                read.append((states[-1].progress.step, number))
            return reader(self, number)

        return note

    sources = ((ImageStream, "__getitem__"), (CodeStream, "sample"), (ConversationDataset, "read"))
    with contextlib.ExitStack() as stack:
        for kind, name in sources:
            stack.enter_context(mock.patch.object(kind, name, noting(getattr(kind, name))))
        yield read


def losses(run: Path) -> dict[int, float]:
    """Of each step that was logged, the last that was said of it. A run that ends once a checkpoint is there says
    nothing of that step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
