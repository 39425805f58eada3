"""The end of a step, the same in all trainers: what is due after it, and whether the run goes back, saves or stops."""

from __future__ import annotations

from dataclasses import dataclass

from common.training.checkpoint import Checkpoints
from common.training.guard import Guard
from common.training.reporter import LoggingConfig, Reporter
from common.training.state import TrainingState
from common.training.stop import StopRequest


@dataclass(frozen=True)
class Due:
    """What comes after a step. The last step has all of it; a run that stops saves and shows nothing more."""

    line: bool
    picture: bool
    evaluation: bool
    checkpoint: bool


class StepEnd:
    """Asked once a step, by all ranks together.

    Args:
        steps: of the whole run. save_every: steps between checkpoints.
    """

    def __init__(
        self,
        steps: int,
        logging: LoggingConfig,
        save_every: int,
        *,
        state: TrainingState,
        checkpoints: Checkpoints,
        guard: Guard,
        stop: StopRequest,
        reporter: Reporter,
    ) -> None:
        self.steps, self.logging, self.save_every = steps, logging, save_every
        self.state, self.checkpoints, self.guard = state, checkpoints, guard
        self.stop, self.reporter = stop, reporter

    def due(self) -> Due | None:
        """After every engine's step: what is due; None if the run went back to its last checkpoint, and its data is to
        be opened anew.

        Raises:
            BadSteps: too many steps were bad. UserError: a checkpoint of the background could not be written.
        """
        progress = self.state.progress
        progress.advance()
        self.reporter.advance()
        self.checkpoints.poll()
        step = progress.step
        last = step == self.steps
        line = self._falls(self.logging.log_every)
        stopping = self.stop.agreed(step)
        checkpoint = self._falls(self.save_every) or stopping
        if self.guard.end_step(line, checkpoint):
            with self.guard.going_back():
                self.state.go_back(self.checkpoints)
            self.reporter.rewind(progress.step)
            return None
        return Due(
            line=line,
            picture=self._falls(self.logging.picture_every) and not stopping,
            evaluation=self._falls(self.logging.evaluate_every) and not stopping,
            # In a row of bad steps the checkpoint before them is kept.
            checkpoint=checkpoint and (self.guard.healthy or last or stopping),
        )

    def _falls(self, every: int) -> bool:
        step = self.state.progress.step
        return step % every == 0 or step == self.steps

    def stops(self, due: Due) -> bool:
        """Whether the run ends here, saved as it is: it was asked to before the checkpoint, or since."""
        return due.checkpoint and self.stop.agreed()
