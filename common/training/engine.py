"""The one place where a model meets DeepSpeed: typed config in, engine out.

Precision, accumulation, clipping, ZeRO and sharded optimizer states are DeepSpeed's. `bf16_autocast` keeps
float32 parameters and casts inside matrix products; `bf16` casts the parameters themselves, which suits a
language model and would ruin a codebook.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from common.config import Count, configclass
from common.errors import UserError
from common.training.dropped_steps import PlainStep
from common.training.optim import Rates

# Gradient elements per reduction. DeepSpeed's default of 5e8 holds 2 GB of float32 on every GPU.
REDUCE_BUCKET = 50_000_000

Precision = Literal["fp32", "bf16_autocast", "bf16"]


@configclass
class EngineConfig:
    """How the model is spread and computed.

    Args:
        zero_stage: 0 replicates; 1 shards optimizer states; 2 gradients too; 3 parameters too.
        offload: where sharded optimizer states (and parameters, at stage 3) rest between steps.
        nvme_path: a fast local disk, for `offload: nvme`.
    """

    zero_stage: Literal[0, 1, 2, 3]
    precision: Precision
    activation_checkpointing: bool = False
    offload: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None

    def __post_init__(self) -> None:
        if self.offload == "nvme" and self.nvme_path is None:
            raise ValueError("nvme_path: expected a folder, since offload is nvme")
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError("offload: needs zero_stage 1 or higher")


@configclass
class BatchConfig:
    """Samples per optimizer step over all ranks, and per forward pass on one rank; accumulation follows."""

    global_size: Count
    micro_size: Count

    def accumulation(self, world: int) -> int:
        """Micro steps per optimizer step.

        Raises:
            UserError: the global batch is no multiple of micro batch x ranks.
        """
        steps, rest = divmod(self.global_size, self.micro_size * world)
        if rest or not steps:
            raise UserError(
                f"batch.global_size: {self.global_size} is no multiple of "
                f"batch.micro_size {self.micro_size} x {world} ranks"
            )
        return steps


def deepspeed_config(
    engine: EngineConfig, batch: BatchConfig, world: int, max_grad_norm: float | None
) -> dict[str, Any]:
    """DeepSpeed's own JSON, as a dict; every value comes from ours."""
    zero: dict[str, Any] = {"stage": engine.zero_stage, "reduce_bucket_size": REDUCE_BUCKET}
    if engine.offload != "none":
        target = {"device": engine.offload, "nvme_path": engine.nvme_path}
        zero["offload_optimizer"] = target
        if engine.zero_stage == 3:
            zero["offload_param"] = target
    config: dict[str, Any] = {
        "train_batch_size": batch.global_size,
        "train_micro_batch_size_per_gpu": batch.micro_size,
        "gradient_accumulation_steps": batch.accumulation(world),
        "gradient_clipping": max_grad_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31 - 1,  # our own metrics do the reporting
    }
    if engine.precision == "bf16":
        config["bf16"] = {"enabled": True}
    if engine.precision == "bf16_autocast":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The engine's own mixed precision, for forward passes outside of it (a teacher, an evaluation)."""
    if precision == "bf16_autocast":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def start_engine(
    model: nn.Module,
    groups: list[dict[str, Any]],
    factors: Callable[[dict[str, Any]], Callable[[int], float]],
    betas: tuple[float, float],
    eps: float,
    config: dict[str, Any],
) -> Any:
    """A DeepSpeed engine around `model` with AdamW over `groups`, and Muon over those that `with_muon` made.

    Args:
        factors: group -> (steps done -> rate / peak rate); before each step the trainer calls `set_rates`.
        config: what `deepspeed_config` returned.

    The engine is in train mode, whatever mode the model was loaded in: activation checkpointing and dropout need it.
    """
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls torch by its old names, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.distributed.*deprecated")
    # Without ZeRO and with float32 parameters, DeepSpeed steps torch's optimizer as it is.
    plain = config["zero_optimization"]["stage"] == 0 and "bf16" not in config
    if "offload_optimizer" in config["zero_optimization"]:
        # States that rest in memory or on a disk are stepped there, by an operator that is built once.
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, betas=betas, eps=eps, adamw_mode=True)
    elif any(group.get("use_muon") for group in groups):
        optimizer = _muon(groups, betas, eps)
    else:
        optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps, fused=plain or None)
    rates = Rates([(group["lr"], factors(group)) for group in groups])
    if plain:
        PlainStep(optimizer, config["gradient_clipping"])
        config = {**config, "gradient_clipping": 0.0}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    engine.rates = rates
    engine.train()
    return engine


def set_rates(engine: Any, done: int) -> None:
    """The learning rates of an engine's next step, by the recipe that runs; `done` steps came before it."""
    engine.rates.set(engine.optimizer, done)


def _muon(groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
    """DeepSpeed's Muon, whose updates ZeRO computes on whole matrices before it shards them."""
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    if not torch.cuda.is_available():
        # DeepSpeed compiles the update for every shape, which on a CPU takes longer than a whole short run gains.
        torch.compiler.set_stance("force_eager")
    for group in groups:
        group.update({"ns_method": "standard"} if group["use_muon"] else {"betas": betas, "eps": eps})
        for parameter in group["params"]:
            parameter.use_muon = group["use_muon"]
    return MuonWithAuxAdam(groups)
