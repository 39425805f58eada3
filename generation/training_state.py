"""All that changes while the generator trains, with one way to save it and one to resume it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import dist
from common.data.corrupt import CorruptCounter
from common.training.checkpoint import Checkpoints, random_state, read_state, set_random_state
from common.training.engine import deepspeed_config, load_engine, start_engine
from common.training.optim import constant_factor, cosine_factor, parameter_groups, with_muon
from generation.config import GenerationConfig
from generation.objective import NextCode

TAG = "generator"


class TrainingState:
    """One engine, and the count of unreadable pictures.

    Everything else that a step depends on follows from its number: the rate, the order of the data, dropped captions.
    """

    def __init__(self, config: GenerationConfig, model: NextCode) -> None:
        self.model = model
        rates = config.optimizer
        settings = deepspeed_config(config.engine, config.batch, dist.world(), rates.adamw.max_grad_norm)

        def schedule(group: dict[str, Any]) -> Callable[[int], float]:
            if rates.schedule == "cosine":
                return cosine_factor(rates.lr, 0.0, rates.warmup_steps, config.steps)
            return constant_factor(rates.warmup_steps)

        groups = parameter_groups("generator", [model], rates.lr, rates.adamw.weight_decay)
        if rates.muon is not None:
            groups = with_muon(groups, rates.muon, model.language_model.get_output_embeddings().weight)
        self.engine = start_engine(model, groups, schedule, rates.adamw.betas, rates.adamw.eps, settings)
        self.corrupt = CorruptCounter(config.data.max_corrupt_share)

    def check_corrupt(self) -> int:
        """Pictures that could not be read so far, over all ranks.

        Raises:
            UserError: more than the recipe's share of all samples.
        """
        totals = dist.sum_(self.corrupt.counts().to(self.engine.device)).cpu()
        self.corrupt.check(totals)
        return int(totals[1])

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        """`step` optimizer steps are done."""
        state: dict[str, Any] = {
            "step": step,
            "random": random_state(),
            "corrupt": self.corrupt.state_dict(),  # each rank keeps its own count
            "vqrae_sha256": self.model.vocabulary.vqrae_sha256,
        }

        def write(folder: Path) -> None:
            self.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

        checkpoints.save(step, write, state)

    def load(self, checkpoint: Path) -> int:
        """Go back to a checkpoint; returns the steps that were done.

        Raises:
            UserError: it writes the codes of another VQRAE, or does not fit the recipe.
        """
        state = read_state(checkpoint, dist.rank())
        self.model.vocabulary.check_vqrae(state["vqrae_sha256"], str(checkpoint))
        load_engine(self.engine, checkpoint, TAG)
        self.corrupt.load_state_dict(state["corrupt"])
        set_random_state(state["random"])
        return int(state["step"])
