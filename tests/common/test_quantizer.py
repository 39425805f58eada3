"""SimVQ against independent statements of its rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from common.models.quantizer import SimVQ, nearest_codes, rotate_to


def make(gradient: str = "straight_through", width: int = 6, codes: int = 40, dim: int = 8) -> SimVQ:
    torch.manual_seed(0)
    quantizer = SimVQ(width, codes, dim, gradient)  # type: ignore[arg-type]
    torch.nn.init.normal_(quantizer.transform.weight, std=0.4)
    quantizer.feature_mean.normal_()
    quantizer.feature_std.uniform_(0.5, 2.0)
    return quantizer


@pytest.mark.parametrize("block", [40, 7 * 40, 10**9])
def test_nearest_code_is_the_argmin_of_all_distances(block: int) -> None:
    rng = np.random.default_rng(0)
    vectors, table = rng.normal(size=(3, 50, 8)), rng.normal(size=(40, 8))
    distances = np.square(vectors[:, :, None] - table).sum(-1)
    found = nearest_codes(torch.tensor(vectors).float(), torch.tensor(table).float(), block=block)
    assert np.array_equal(found.numpy(), distances.argmin(-1))


def test_ties_take_the_lowest_index() -> None:
    table = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_codes(torch.tensor([[1.0, 0.0]]), table).tolist() == [0]


# Fewer and more tokens than codes: two orders of the same product.
@pytest.mark.parametrize("tokens", [3, 100])
def test_codes_to_vectors_applies_w(tokens: int) -> None:
    quantizer = make()
    codes = torch.randint(0, 40, (2, tokens))
    table = quantizer.codebook.double() @ quantizer.transform.weight.double().T
    torch.testing.assert_close(quantizer.lookup(codes).double(), table[codes], atol=1e-5, rtol=1e-5)


def test_forward_equals_the_paper_step_by_step() -> None:
    quantizer, features = make(), torch.randn(2, 9, 6)
    out = quantizer(features)
    standard = (features - quantizer.feature_mean) / quantizer.feature_std
    projected = standard @ quantizer.project.weight.T + quantizer.project.bias
    table = quantizer.codebook @ quantizer.transform.weight.T
    codes = torch.cdist(projected, table.expand(2, -1, -1)).argmin(-1)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.vectors, table[codes])
    torch.testing.assert_close(out.codebook_loss, (table[codes] - projected).square().mean())
    assert out.codebook_loss == out.commitment_loss


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_who_learns_from_what(gradient: str) -> None:
    """The decoder's gradient reaches the features and not W; the codebook term W and not the features; the
    commitment term the features and not W. C never learns."""
    quantizer = make(gradient)

    def learns(loss: Tensor, features: Tensor) -> tuple[bool, bool]:
        quantizer.zero_grad()
        loss.backward()
        w = quantizer.transform.weight.grad
        return features.grad is not None and bool(features.grad.any()), w is not None and bool(w.any())

    for term, expected in (
        ("vectors", (True, False)),
        ("codebook_loss", (False, True)),
        ("commitment_loss", (True, False)),
    ):
        features = torch.randn(2, 9, 6, requires_grad=True)
        assert learns(getattr(quantizer(features), term).square().sum(), features) == expected, term
    assert not any(name == "codebook" for name, _ in quantizer.named_parameters())
    assert "codebook" in quantizer.state_dict()


def test_straight_through_passes_the_gradient_unchanged() -> None:
    quantizer = make()
    projected = torch.randn(1, 5, 8, requires_grad=True)
    chosen = quantizer.lookup(nearest_codes(projected, quantizer.transform(quantizer.codebook)))
    gradient = torch.randn(1, 5, 8)
    quantizer._pass_gradient(projected, chosen).backward(gradient)
    assert torch.equal(projected.grad, gradient)


def test_rotation_carries_values_and_turns_gradients() -> None:
    torch.manual_seed(1)
    source = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 8, dtype=torch.float64)
    moved = rotate_to(source, target)
    torch.testing.assert_close(moved, target)
    # The gradient is the transpose of scale x rotation: its length is the incoming one's times |q| / |z|.
    incoming = torch.randn(4, 8, dtype=torch.float64)
    moved.backward(incoming)
    scale = target.norm(dim=-1) / source.detach().norm(dim=-1)
    torch.testing.assert_close(source.grad.norm(dim=-1), incoming.norm(dim=-1) * scale)


def test_codes_do_not_depend_on_autocast() -> None:
    quantizer, features = make(), torch.randn(2, 50, 6)
    plain = quantizer(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = quantizer(features)
    assert torch.equal(plain.codes, mixed.codes) and mixed.vectors.dtype == torch.float32


@pytest.mark.parametrize("dim", [4, 16, 24])
def test_codes_may_be_narrower_than_the_features(dim: int) -> None:
    quantizer = SimVQ(16, 8, dim)
    quantized = quantizer(torch.randn(2, 10, 16))
    assert quantized.vectors.shape == (2, 10, dim)
    weight = quantizer.project.weight  # starts as an isometry, of as many dimensions as there are
    square = weight @ weight.T if dim < 16 else weight.T @ weight
    torch.testing.assert_close(square, torch.eye(min(dim, 16)))
