"""All that changes while the tokenizer trains, with one way to save it and one to resume it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from common import dist
from common.data.corrupt import CorruptCounter
from common.models.vqrae import VQRAE
from common.training.checkpoint import Checkpoints, random_state, read_state, set_random_state
from common.training.ema import ShardedEMA
from common.training.engine import deepspeed_config, load_engine, start_engine
from common.training.optim import cosine_factor
from tokenizer import assemble
from tokenizer.config import TokenizerConfig
from tokenizer.discriminator import Discriminator
from tokenizer.losses import LeCam


class TrainingState:
    """Two engines (the second only where the recipe has a discriminator) and the small states beside them.

    Everything else that a step depends on follows from its number: learning rates, and the order of the data.
    """

    def __init__(self, config: TokenizerConfig, model: VQRAE, critic: Discriminator | None) -> None:
        self.config, self.model, self.critic = config, model, critic
        self.generator = self._engine(model, assemble.generator_groups(model, config), config.steps)
        self.discriminator = None
        if critic is not None:
            # Its warm-up and cosine start at its first update, not at step 0 (decision 11).
            updates = config.steps - config.loss.first_discriminator_update
            self.discriminator = self._engine(critic, assemble.discriminator_groups(critic, config), updates)
        self.lecam = LeCam().to(model.device)
        self.ema = ShardedEMA(model) if config.ema else None
        self.corrupt = CorruptCounter(config.data.max_corrupt_share)

    def _engine(self, model: Any, groups: list[dict[str, Any]], steps: int) -> Any:
        config, rates = self.config, self.config.optimizer
        settings = deepspeed_config(config.engine, config.batch, dist.world(), rates.adamw.max_grad_norm)

        def schedule(group: dict[str, Any]) -> Callable[[int], float]:
            return cosine_factor(group["lr"], rates.end_lr, rates.warmup_steps, steps)

        return start_engine(model, groups, schedule, rates.adamw.betas, rates.adamw.eps, settings)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model holds its moving average, if the recipe keeps one."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def check_corrupt(self) -> int:
        """Images that could not be read so far, over all ranks.

        Raises:
            UserError: more than the recipe's share of all samples.
        """
        totals = dist.sum_(self.corrupt.counts().to(self.model.device)).cpu()
        self.corrupt.check(totals)
        return int(totals[1])

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        """`step` optimizer steps are done."""
        state: dict[str, Any] = {
            "step": step,
            "random": random_state(),
            "lecam": self.lecam.state_dict(),
            "corrupt": self.corrupt.state_dict(),  # each rank keeps its own count
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()

        def write(folder: Path) -> None:
            for name, engine in self._engines():
                engine.save_checkpoint(str(folder), tag=name, save_latest=False)

        checkpoints.save(step, write, state)

    def load(self, checkpoint: Path) -> int:
        """Go back to a checkpoint; returns the steps that were done."""
        state = read_state(checkpoint, dist.rank())
        for name, engine in self._engines():
            load_engine(engine, checkpoint, name)
        self.lecam.load_state_dict(state["lecam"])
        self.corrupt.load_state_dict(state["corrupt"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        set_random_state(state["random"])
        return int(state["step"])

    def _engines(self) -> list[tuple[str, Any]]:
        engines = [("generator", self.generator), ("discriminator", self.discriminator)]
        return [(name, engine) for name, engine in engines if engine is not None]
