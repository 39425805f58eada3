"""Each loss against its definition, written again in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenizer import losses

generator = np.random.default_rng(0)


def _logits(*shape: int) -> tuple[np.ndarray, torch.Tensor]:
    values = generator.normal(0.3, 1.5, shape)
    return values, torch.tensor(values, dtype=torch.float32)


def test_squared_terms_are_means_over_all_elements() -> None:
    a, a32 = _logits(2, 3, 5, 7)
    b, b32 = _logits(2, 3, 5, 7)
    assert losses.reconstruction_l2(a32, b32).item() == pytest.approx(np.mean((a - b) ** 2), rel=1e-5)
    assert losses.self_distillation(a32, b32).item() == pytest.approx(np.mean((a - b) ** 2), rel=1e-5)


def test_distillation_moves_the_student_only() -> None:
    student, teacher = (torch.randn(2, 4, 8, requires_grad=True) for _ in range(2))
    losses.self_distillation(student, teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / student.numel())


def test_teacher_cosine_is_a_mean_over_tokens() -> None:
    a, a32 = _logits(2, 4, 8)
    b, b32 = _logits(2, 4, 8)
    expected = np.mean(np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))
    assert losses.teacher_cosine(a32, b32).item() == pytest.approx(expected, rel=1e-5)
    assert losses.teacher_cosine(a32, 3 * a32).item() == pytest.approx(1.0)


def test_adversarial_terms() -> None:
    real, real32 = _logits(3, 1, 4, 4)
    fake, fake32 = _logits(3, 1, 4, 4)
    hinge = 0.5 * (np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake)))
    assert losses.discriminator_hinge(real32, fake32).item() == pytest.approx(hinge, rel=1e-5)
    assert losses.generator_loss(fake32).item() == pytest.approx(-np.mean(fake), rel=1e-5)
    accuracy = (np.mean(real > 0) + np.mean(fake < 0)) / 2
    assert losses.discriminator_accuracy(real32, fake32).item() == pytest.approx(accuracy)
    assert losses.discriminator_accuracy(torch.zeros(4), torch.zeros(4)) == 0  # undecided is not right


def test_terms_are_float32_whatever_comes_in() -> None:
    a, b = torch.rand(2, 3, 4, 4, dtype=torch.bfloat16), torch.rand(2, 3, 4, 4, dtype=torch.bfloat16)
    for term in (
        losses.reconstruction_l2(a, b),
        losses.self_distillation(a, b),
        losses.teacher_cosine(a, b),
        losses.generator_loss(a),
        losses.discriminator_hinge(a, b),
        losses.LeCam().penalty(a, b),
    ):
        assert term.dtype == torch.float32
    exact = np.mean((a.double() - b.double()).numpy() ** 2)
    assert losses.reconstruction_l2(a, b).item() == pytest.approx(exact, rel=1e-6)


def test_lecam_follows_its_definition_over_several_steps() -> None:
    lecam = losses.LeCam(decay=0.9)
    ema_real = ema_fake = 0.0
    for _ in range(5):
        real, real32 = _logits(3, 1, 4, 4)
        fake, fake32 = _logits(3, 1, 4, 4)
        expected = max(real.mean() - ema_fake, 0) ** 2 + max(ema_real - fake.mean(), 0) ** 2
        assert lecam.penalty(real32, fake32).item() == pytest.approx(expected, rel=1e-4, abs=1e-7)
        lecam.update()
        ema_real, ema_fake = 0.9 * ema_real + 0.1 * real.mean(), 0.9 * ema_fake + 0.1 * fake.mean()
        assert lecam.ema_real.item() == pytest.approx(ema_real, rel=1e-4)
        assert lecam.ema_fake.item() == pytest.approx(ema_fake, rel=1e-4)


def test_lecam_state_does_not_depend_on_accumulation() -> None:
    real, fake = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    whole, parts = losses.LeCam(), losses.LeCam()
    whole.penalty(real, fake)
    whole.update()
    for start in (0, 2):
        parts.penalty(real[start : start + 2], fake[start : start + 2])
    parts.update()
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_lecam_state_survives_saving() -> None:
    lecam, other = losses.LeCam(), losses.LeCam()
    lecam.penalty(torch.ones(2), -torch.ones(2))
    lecam.update()
    state = lecam.state_dict()
    assert sorted(state) == ["ema_fake", "ema_real"]
    assert state["ema_real"].item() == pytest.approx(0.001)
    other.load_state_dict(state)
    real, fake = torch.randn(2), torch.randn(2)
    assert torch.equal(other.penalty(real, fake), lecam.penalty(real, fake))


def test_lecam_penalises_a_confident_discriminator() -> None:
    """The gradient pushes real logits down towards the running mean of the fake ones."""
    lecam = losses.LeCam()
    real = torch.full((4,), 2.0, requires_grad=True)
    lecam.penalty(real, torch.zeros(4)).backward()
    torch.testing.assert_close(real.grad, torch.full((4,), 2 * 2.0 / 4))


def test_lecam_reads_the_means_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, one of them played by a stand-in for `sum_` that adds the other's means."""
    other = torch.tensor([1.0, -2.0])
    monkeypatch.setattr(losses.dist, "world", lambda: 2)
    monkeypatch.setattr(losses.dist, "sum_", lambda tensor: tensor.add_(other))
    lecam = losses.LeCam()
    real = torch.tensor([2.0, 4.0], requires_grad=True)
    penalty = lecam.penalty(real, torch.tensor([0.0, 0.0]))
    mean = (3.0 + 1.0) / 2
    assert penalty.item() == pytest.approx(mean**2 + 1.0**2)  # the second term: relu(0 - mean of 0 and -2)^2
    penalty.backward()
    # d(mean^2)/d(real) is 2 * mean / 2 values / 2 ranks; the engine's average over ranks brings the last
    # factor.
    torch.testing.assert_close(real.grad, torch.full((2,), 2 * mean / 2))
    lecam.update()
    assert lecam.ema_real.item() == pytest.approx(0.001 * mean)
    assert lecam.ema_fake.item() == pytest.approx(0.001 * -1.0)
