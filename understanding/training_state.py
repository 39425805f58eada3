"""All that changes while understanding trains, with one way to save it and one to resume it.

A checkpoint holds what learns and nothing else: the frozen tower is referenced by its hash, and a frozen language
model by the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import dist
from common.data.corrupt import CorruptCounter
from common.errors import UserError
from common.models.vision_encoder import VisionEncoder
from common.training.checkpoint import Checkpoints, random_state, read_state, set_random_state
from common.training.engine import load_engine, start_engine
from common.training.optim import cosine_factor, parameter_groups, with_muon
from understanding.config import UnderstandingConfig
from understanding.model import LanguageSide
from understanding.tower import tower_hash

TAG = "language_side"


class TrainingState:
    """One engine around projector and language model, and the count of skipped samples.

    Args:
        settings: DeepSpeed's config, with which `side` was built.
        tower: the frozen tower, of which only the hash is kept.
        steps: of the whole run, for the schedule.
    """

    def __init__(
        self,
        config: UnderstandingConfig,
        side: LanguageSide,
        settings: dict[str, Any],
        tower: VisionEncoder,
        steps: int,
    ) -> None:
        self.tower = tower_hash(tower)
        rates = config.optimizer

        def schedule(group: dict[str, Any]) -> Callable[[int], float]:
            return cosine_factor(rates.lr, rates.end_lr, round(rates.warmup_ratio * steps), steps)

        groups = parameter_groups("learned", [side], rates.lr, rates.adamw.weight_decay)
        if rates.muon is not None:
            groups = with_muon(groups, rates.muon, side.llava.get_output_embeddings().weight)
        self.engine = start_engine(side, groups, schedule, rates.adamw.betas, rates.adamw.eps, settings)
        self.skipped = CorruptCounter(config.data.max_skipped_share, "data.max_skipped_share", "samples")

    def check_skipped(self) -> int:
        """Samples skipped so far, over all ranks.

        Raises:
            UserError: more than the recipe's share.
        """
        totals = dist.sum_(self.skipped.counts().to(self.engine.device)).cpu()
        self.skipped.check(totals)
        return int(totals[1])

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        """`step` optimizer steps are done."""
        state: dict[str, Any] = {
            "step": step,
            "random": random_state(),
            "skipped": self.skipped.state_dict(),  # each rank keeps its own count
            "tower": self.tower,
        }

        def write(folder: Path) -> None:
            self.engine.save_checkpoint(
                str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True
            )

        checkpoints.save(step, write, state)

    def load(self, checkpoint: Path) -> int:
        """Go back to a checkpoint; returns the steps that were done.

        Raises:
            UserError: it was trained on another tower, or does not fit the recipe.
        """
        state = read_state(checkpoint, dist.rank())
        if state["tower"] != self.tower:
            raise UserError(
                f"{checkpoint}: model.tower: was trained on the tower {state['tower'][:12]}, "
                f"the recipe names {self.tower[:12]}"
            )
        load_engine(self.engine, checkpoint, TAG, strict=False)
        self.skipped.load_state_dict(state["skipped"])
        set_random_state(state["random"])
        return int(state["step"])
