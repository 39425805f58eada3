"""The checkpoint whose evaluation scored best stays beside the newest ones.

    RUN/checkpoints/best    {"checkpoint": "step_00001000", "score": "psnr", "value": 27.3}

It is named once its evaluation is done and its checkpoint is on disk; from then on no rotation removes it until another
one scores better. `vqrae export RUN --best` makes a model of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from common import dist
from common.errors import UserError, refusing
from common.files import write_json
from common.training.checkpoint import CheckpointConfig, Checkpoints
from common.training.reporter import LoggingConfig
from common.training.stored.manifest import check_sizes, read_manifest, step_folder, step_of

BEST = "best"
Scores = Mapping[str, bool]
"""The scores of an evaluation that a run can be kept by -> whether higher is better."""


@dataclass(frozen=True)
class Scored:
    """A checkpoint's folder by name, and what its evaluation gave."""

    checkpoint: str
    score: str
    value: float


def check_best(checkpoint: CheckpointConfig, logging: LoggingConfig, evaluated: bool, scores: Scores) -> None:
    """Whether a recipe's `checkpoint.best` will ever find what it asks for.

    Args:
        evaluated: the recipe has a held-out set.
        scores: of its evaluation.

    Raises:
        ValueError: it will not; names the field.
    """
    if checkpoint.best is None:
        return
    if not evaluated:
        raise ValueError("checkpoint.best: nothing is evaluated; name a held-out set in evaluation")
    if checkpoint.best not in scores:
        raise ValueError(
            f"checkpoint.best: expected one of {', '.join(scores)}; found {checkpoint.best!r}, which this "
            "evaluation does not measure"
        )
    if logging.evaluate_every % checkpoint.save_every:
        raise ValueError(
            f"logging.evaluate_every: expected a multiple of checkpoint.save_every ({checkpoint.save_every}), so "
            "that what checkpoint.best compares has been saved"
        )


class Best:
    """Keeps the best checkpoint of a run. All ranks make it and offer together; rank 0 decides.

    Args:
        score: the name of the score; None keeps whatever was best before, and looks for no other.
        scores: those that the evaluation gives.
    """

    def __init__(self, checkpoints: Checkpoints, score: str | None, scores: Scores) -> None:
        self.checkpoints, self.score = checkpoints, score
        self.higher_is_better = scores[score] if score is not None else True
        self.kept: Scored | None = None
        if dist.is_main():
            self._keep(self._before())

    def offer(self, step: int, scores: Mapping[str, float]) -> None:
        """The evaluation of `step`; passed over where that was not saved, as in a row of bad steps.

        Raises:
            UserError: it is the best, and that cannot be written.
        """
        if self.score is None:
            return
        self.checkpoints.wait()  # it may be written still
        if not dist.is_main():
            return
        offered = Scored(step_folder(step), self.score, float(scores[self.score]))
        if (self.checkpoints.folder / offered.checkpoint).is_dir() and self._better(offered):
            write_json(self.checkpoints.folder / BEST, asdict(offered))
            self._keep(offered)

    def _better(self, offered: Scored) -> bool:
        kept = self.kept
        if not math.isfinite(offered.value):
            return False
        if kept is None or kept.checkpoint == offered.checkpoint:  # gone back in time, it was written anew
            return True
        return offered.value > kept.value if self.higher_is_better else offered.value < kept.value

    def _keep(self, scored: Scored | None) -> None:
        self.kept = scored
        self.checkpoints.protected = {self.checkpoints.folder / scored.checkpoint} if scored else set()

    def _before(self) -> Scored | None:
        """What a former call found, if it can still be compared."""
        try:
            scored = read_best(self.checkpoints.folder)
        except UserError as error:
            print(f"warning: {error}; looking for the best anew", flush=True)
            return None
        if scored is not None and self.score not in (None, scored.score):
            print(f"{BEST}: was by {scored.score}, is by {self.score} from here on", flush=True)
            return None
        return scored


def read_best(folder: Path) -> Scored | None:
    """What `RUN/checkpoints/best` names; None where there is no such file.

    Raises:
        UserError: it is damaged, or the checkpoint is.
    """
    path = folder / BEST
    if not path.exists():
        return None
    with refusing(f"{path}: cannot be read", OSError, ValueError, TypeError, KeyError):
        scored = Scored(**json.loads(path.read_text(encoding="utf-8")))
        if step_of(scored.checkpoint) is None or not math.isfinite(scored.value):
            raise ValueError("names no checkpoint with its score")
    with refusing(f"{path}: names {scored.checkpoint}", UserError):
        check_sizes(folder / scored.checkpoint, read_manifest(folder / scored.checkpoint))
    return scored
