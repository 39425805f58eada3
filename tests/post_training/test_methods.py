"""What each method learns from, and what it minimises, against the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from post_training.methods.config import DPOConfig, GRPOConfig, RejectionConfig
from post_training.methods.dpo import DPO
from post_training.methods.grpo import GRPO, divergence, equal, relative, unlike
from post_training.methods.rejection import Rejection
from post_training.policy import PolicyOutput

REWARDS = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.2, 0.2, 0.2, 0.2], [0.1, 0.5, 0.3, 0.9]])


def now(log_probs: Tensor, entropy: float = 2.0) -> PolicyOutput:
    return PolicyOutput(log_probs, torch.tensor(entropy, requires_grad=True))


def test_advantages() -> None:
    divided, plain = relative(REWARDS, True), relative(REWARDS, False)
    torch.testing.assert_close(divided[0], torch.tensor([-1.0, 1.0, 1.0, -1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(plain[2], torch.tensor([-0.35, 0.05, -0.15, 0.45]))
    assert divided[2].std(correction=0) == pytest.approx(1, abs=1e-3)
    # Exactly nothing, though the mean of 0.2 is not 0.2 in float32 for every group size.
    assert relative(torch.full((1, 7), 0.1), True).tolist() == [[0.0] * 7]
    assert equal(REWARDS).tolist() == [False, True, False]


def test_the_ratio_is_clipped_on_the_side_that_would_gain() -> None:
    config = GRPOConfig(clip=0.2, clip_high=0.5)
    old = torch.zeros(4, 1)
    log_probs = torch.tensor([[1.4], [1.6], [0.7], [0.7]]).log().requires_grad_()
    weights = torch.tensor([[1.0], [1.0], [-1.0], [1.0]])
    loss, terms = GRPO(config).loss(now(log_probs), old, None, weights)
    # 1.4 is inside; 1.6 counts as 1.5; a bad picture already at 0.7 counts as 0.8; a good one at 0.7 as it is.
    assert float(loss) == pytest.approx(-(1.4 + 1.5 - 0.8 + 0.7) / 4)
    assert float(terms["clip_share"]) == 0.5
    loss.backward()
    assert log_probs.grad is not None
    assert (log_probs.grad != 0).flatten().tolist() == [True, False, False, True]
    symmetric, _ = GRPO(GRPOConfig(clip=0.2)).loss(now(log_probs.detach()), old, None, weights)
    assert float(symmetric) == pytest.approx(-(1.2 + 1.2 - 0.8 + 0.7) / 4)


def test_divergence_and_entropy_have_their_weights() -> None:
    log_probs, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.5]])
    expected = (math.exp(0.5) - 0.5 - 1) / 2
    assert float(divergence(log_probs, reference).mean()) == pytest.approx(expected)
    assert divergence(log_probs, log_probs).abs().max() == 0
    weights = torch.zeros(1, 1)
    method = GRPO(GRPOConfig(kl=0.3, entropy=0.1))
    assert method.refers and method.entropy_learns
    loss, _ = method.loss(now(log_probs), log_probs, reference, weights)
    assert float(loss) == pytest.approx(0.3 * expected - 0.1 * 2.0)
    plain = GRPO(GRPOConfig())
    assert not plain.refers and not plain.entropy_learns and not plain.compares


def test_codes_count_less_where_good_and_bad_pictures_are_alike() -> None:
    """Place 0: all the same. Place 1: the good show one thing, the bad its opposite. Place 2: each another thing."""
    same, one, *_ = each = torch.eye(4)
    shown = zip((one, one, -one, -one), each, strict=True)
    vectors = torch.stack([torch.stack([same, thing, own]) for thing, own in shown])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    # (1 - 1) / 2, (1 + 1) / 2 and (1 - 0) / 2, of mean 1; those of the same sign are not compared.
    torch.testing.assert_close(unlike(advantages, vectors), torch.tensor([[0.0, 2.0, 1.0]]).expand(4, 3))
    method = GRPO(GRPOConfig(similarity=True))
    chosen = method.choose(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), vectors)
    assert method.compares and chosen.weights.shape == (4, 3)
    torch.testing.assert_close(
        chosen.weights, advantages[:, None] * unlike(advantages, vectors), atol=1e-3, rtol=0
    )
    # Pictures that are all alike everywhere leave their advantages as they are.
    assert unlike(advantages, same.expand(4, 2, 4)).tolist() == [[1.0, 1.0]] * 4


def test_rejection_takes_the_best_above_the_threshold() -> None:
    method = Rejection(RejectionConfig(keep=2, threshold=0.5))
    chosen = method.choose(REWARDS, None)
    assert chosen.index.tolist() == [1, 2, 4, 5, 11, 9]
    assert chosen.weights.flatten().tolist() == [1.5, 1.5, 0, 0, 1.5, 1.5]  # 4 of 6, of mean 1
    log_probs = -torch.arange(12.0).view(6, 2)
    loss, terms = method.loss(now(log_probs), log_probs, None, chosen.weights)
    kept = log_probs[[0, 1, 4, 5]]
    assert float(loss) == pytest.approx(-float(kept.mean())) and float(
        terms["learned_share"]
    ) == pytest.approx(4 / 6)
    nothing = Rejection(RejectionConfig(keep=1, threshold=1.0)).choose(REWARDS[1:], None)
    assert nothing.weights.abs().sum() == 0


def test_dpo_learns_from_the_best_and_the_worst() -> None:
    method = DPO(DPOConfig(beta=0.5, margin=0.0))
    chosen = method.choose(REWARDS, None)
    assert chosen.index.tolist() == [1, 0, 4, 4, 11, 8]
    assert chosen.weights.flatten().tolist() == [1.5, 1.5, 0, 0, 1.5, 1.5]
    torch.manual_seed(0)
    log_probs, reference = torch.randn(6, 3), torch.randn(6, 3)
    loss, terms = method.loss(now(log_probs), log_probs, reference, chosen.weights)
    apart = (log_probs - reference).sum(1)
    margins = [0.5 * float(apart[place] - apart[place + 1]) for place in (0, 4)]
    expected = sum(math.log(1 + math.exp(-margin)) for margin in margins) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert 0 <= float(terms["preferred"]) <= 1
    far = DPO(DPOConfig(margin=0.9)).choose(REWARDS, None).weights.flatten()
    assert far.tolist() == [3.0, 3.0, 0, 0, 0, 0]
    start, _ = method.loss(now(reference), reference, reference, chosen.weights)
    assert float(start) == pytest.approx(math.log(2))
