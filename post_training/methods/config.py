"""The fields of each method, and where its numbers are from."""

from __future__ import annotations

from typing import Annotated, Literal

from common.config import Count, Rate, Share, Weight, configclass, within

Clip = Annotated[float, within("a positive number below 1", lambda value: 0 < value < 1)]
ClipHigh = Annotated[float, within("a positive number of at most 100", lambda value: 0 < value <= 100)]


@configclass
class GRPOConfig:
    """Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300).

    Args:
        clip: how far below 1 the ratio of new and old probabilities counts; 0.2 is PPO's (arXiv 1707.06347).
        clip_high: how far above 1; null: as `clip`. Larger leaves room for unlikely codes (DAPO, arXiv 2503.14476,
            has 0.28).
        kl: weight of the divergence from the reference, the generator as it was (DeepSeekMath has 0.04). 0 holds no
            reference.
        entropy: weight of a bonus on the policy's entropy, in nats a code (arXiv 1602.01783). 0: none.
        advantage: `std` divides by the standard deviation of the group's rewards; `mean` leaves it out, so that groups
            whose pictures are nearly alike do not count more (Dr. GRPO, arXiv 2503.20783). Its other point, the bias
            by length, does not arise: all pictures have as many codes.
        similarity: codes count less where pictures of the other sign have the like at the same place (STAGE, arXiv
            2509.25027).
    """

    clip: Clip = 0.2
    clip_high: ClipHigh | None = None
    kl: Weight = 0.0
    entropy: Weight = 0.0
    advantage: Literal["std", "mean"] = "std"
    similarity: bool = False


@configclass
class RejectionConfig:
    """Fine-tuning on the best of each group (RAFT, arXiv 2304.06767; ReST, arXiv 2308.08998).

    Args:
        keep: the best so many of each group.
        threshold: the least reward of what is learned from.
    """

    keep: Count = 1
    threshold: Share = 0.5


@configclass
class DPOConfig:
    """Direct preference optimisation on the best and the worst of each group (arXiv 2305.18290).

    Args:
        beta: how strongly the reference holds. The paper has 0.1.
        margin: a pair's rewards differ by more than this; else nothing is learned from its group.
    """

    beta: Rate = 0.1
    margin: Share = 0.0
