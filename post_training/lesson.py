"""What a rank learns from the pictures of one step: micro-batches, with what their codes were worth to others.

What is notable here: all log-probabilities come from the model that learns, never from the sampler. Those of the
first update are the old ones, so the ratio there is exactly 1; the reference is asked in the same micro-batches, so as
long as nothing has been learned the divergence is exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.training.engine import Precision, autocast
from generation.dataset import SequenceBuilder
from post_training.methods.contract import Chosen
from post_training.policy import Policy, PolicyOutput, Rows
from post_training.rollouts import Drawn


@dataclass
class MicroBatch:
    """Pictures of one forward pass, on the device.

    Args:
        weights: what the method gave them.
        drawn: (m, N), the sampler's log-probabilities of the codes.
        old: (m, N), the policy's own before the first update; None until then.
        reference: (m, N), the reference's; None where none is held.
    """

    rows: Rows
    weights: Tensor
    drawn: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None

    def begin(self, now: PolicyOutput) -> Tensor:
        """The old log-probabilities; the first call makes them."""
        if self.old is None:
            self.old = now.log_probs.detach()
        return self.old

    @property
    def sampler_gap(self) -> Tensor:
        """The mean distance, in nats a code, of what the sampler took a code's probability for."""
        assert self.old is not None
        return (self.drawn - self.old).abs().mean()


def micro_batches(
    policy: Policy, builder: SequenceBuilder, drawn: Drawn, chosen: Chosen, size: int, device: torch.device
) -> list[MicroBatch]:
    """The chosen pictures, `size` at a time."""
    texts = [group.prompt.text for group in drawn.groups]
    per_group = len(drawn.codes) // len(texts)
    found = []
    for index, weights in zip(chosen.index.split(size), chosen.weights.split(size), strict=True):
        owners = [texts[int(place) // per_group] for place in index]
        places = index.to(drawn.codes.device)
        rows = policy.rows(builder, owners, drawn.codes[places])
        on_device = Rows(*(part.to(device, non_blocking=True) for part in rows))
        found.append(MicroBatch(on_device, weights.to(device), drawn.log_probs[places].to(device)))
    return found


@torch.no_grad()
def refer(batches: Sequence[MicroBatch], reference: Policy, precision: Precision) -> None:
    """Ask the reference for its log-probabilities."""
    for batch in batches:
        with autocast(precision, batch.weights.device):
            batch.reference = reference(*batch.rows).log_probs


def in_turn(batches: Sequence[MicroBatch], updates: int) -> Iterator[tuple[int, int, MicroBatch]]:
    """(update, number among all micro-steps, micro-batch): all of them in each update."""
    for update in range(updates):
        for place, batch in enumerate(batches):
            yield update, update * len(batches) + place, batch
