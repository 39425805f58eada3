"""The method that a recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from post_training.methods.contract import Method
from post_training.methods.dpo import DPO
from post_training.methods.grpo import GRPO
from post_training.methods.rejection import Rejection

if TYPE_CHECKING:
    from post_training.config import PostTrainingConfig


def method_of(config: PostTrainingConfig) -> Method:
    """A recipe states the settings of exactly one."""
    if config.rejection is not None:
        return Rejection(config.rejection)
    if config.dpo is not None:
        return DPO(config.dpo)
    assert config.grpo is not None
    return GRPO(config.grpo)
