"""The loss where something is learned is the plain one over all positions and rows, to the last bit."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.language.next_token import next_token_loss


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, nn.Linear]:
    """Hidden states (2, 5, 8), positions, targets and a head of 12 rows, all bfloat16 as in training."""
    torch.manual_seed(0)
    head = nn.Linear(8, 12, bias=False).bfloat16()
    hidden = torch.randn(2, 5, 8).bfloat16().requires_grad_()
    return hidden, torch.tensor([7, 0, 3, 8]), torch.tensor([11, 4, 4, 0]), head


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_is_the_cross_entropy_of_float32_logits(
    drawn: tuple[Tensor, Tensor, Tensor, nn.Linear], reduction: Literal["mean", "sum"]
) -> None:
    hidden, predictors, targets, head = drawn
    loss, likeliest = next_token_loss(hidden, predictors, targets, head, reduction)
    loss.backward()
    ours = hidden.grad, head.weight.grad
    hidden.grad = head.weight.grad = None

    # Advanced indexing, as both jobs once had it.
    logits = head(hidden.flatten(0, 1)[predictors]).float()
    expected = F.cross_entropy(logits, targets, reduction=reduction)
    expected.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert torch.equal(likeliest, logits.argmax(-1)) and not likeliest.requires_grad
    for gradient, tensor in zip(ours, (hidden, head.weight), strict=True):
        assert gradient is not None and tensor.grad is not None and torch.equal(gradient, tensor.grad)


def test_a_slice_of_the_head(drawn: tuple[Tensor, Tensor, Tensor, nn.Linear]) -> None:
    """Over rows 4 to 12: every other logit at minus infinity gives the same loss."""
    hidden, predictors, _, head = drawn
    targets = torch.tensor([7, 0, 3, 2])
    loss, _ = next_token_loss(
        hidden, predictors, targets, lambda rows: F.linear(rows, head.weight[4:]), "mean"
    )
    logits = head(hidden.flatten(0, 1)[predictors]).float()
    logits = logits.masked_fill(torch.arange(12) < 4, -torch.inf)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets + 4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_learn(
    drawn: tuple[Tensor, Tensor, Tensor, nn.Linear], reduction: Literal["mean", "sum"]
) -> None:
    """The head is called all the same, as on the other ranks, and what comes back through it is zero."""
    hidden, _, _, head = drawn
    calls: list[int] = []
    head.register_forward_hook(lambda *_: calls.append(1))
    none = torch.zeros(0, dtype=torch.long)
    loss, likeliest = next_token_loss(hidden, none, none, head, reduction)
    loss.backward()
    assert calls and float(loss) == 0 and len(likeliest) == 0
    assert hidden.grad is not None and head.weight.grad is not None
    assert not hidden.grad.any() and not head.weight.grad.any()
