"""What an evaluation has scored so far, on disk, so that one which is interrupted does not begin anew."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.files import whole_file
from evals.reconstruction.examples import Examples

if TYPE_CHECKING:
    from common.metrics.reconstruction import ReconstructionMetrics

SAVE_SECONDS = 30.0


class Progress:
    """One process's part. It is taken up only by a process of the same `facts`: model, pictures, settings, place.

    Args:
        path: its file.
        facts: plain values.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self._saved = time.monotonic()

    def resume(self, metrics: ReconstructionMetrics) -> tuple[list[dict[str, Any]], Examples]:
        """The rows of a former call, with its examples and its sums in `metrics`; nothing where there is none."""
        examples = Examples()
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
            same = state["facts"] == self.facts and set(state["metrics"]) == set(metrics.state_dict())
        except (OSError, RuntimeError, ValueError, EOFError, KeyError):  # none, or no whole one
            same = False
        if not same:
            return [], examples
        metrics.load_state_dict(state["metrics"])
        for example in state["examples"]:
            examples.add(*example)
        return list(state["rows"]), examples

    def save(self, metrics: ReconstructionMetrics, rows: list[dict[str, Any]], examples: Examples) -> None:
        """Keep it, if the last time is long enough ago.

        Raises:
            UserError: it cannot be written.
        """
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return
        kept = {shown.index: shown for shown in (*examples.first, *examples.worst)}.values()
        state = {
            "facts": self.facts,
            "metrics": metrics.state_dict(),
            "rows": rows,
            "examples": [(shown.index, shown.psnr, shown.original, shown.rebuilt) for shown in kept],
        }
        with whole_file(self.path) as partial:
            torch.save(state, partial)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """It is finished."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other processes' parts are there still, or nothing was
            self.path.parent.rmdir()
