"""SimVQ: a frozen codebook C seen through one learnable matrix W (arXiv 2411.02038; VQRAE section 3.2).

What is notable here: only W learns, so a step moves every code at once and none is left behind, which is what
lets a 1536-wide codebook be used whole. Features are standardised with statistics that were measured before
training and are stored in the checkpoint; C starts from the data (see `codebook_start`). The distance is
float32 whatever the surroundings, and so is all that it is computed from: TF32 or bfloat16 can flip an argmin.

Legend: B images, N tokens, D encoder width, E code width, K codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gradient = Literal["straight_through", "rotation"]

# Entries of the largest distance block, 256 MiB of float32: the N x K matrix itself is never built.
DISTANCE_BLOCK = 2**26


@dataclass
class Quantized:
    """vectors (B, N, E) for the decoder; codes (B, N) int64; two scalar losses, unweighted; and what the
    projected features and their codes measure: `feature_norm` |z|, `code_norm` |q|, scalars."""

    vectors: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    feature_norm: Tensor
    code_norm: Tensor


class Float32Linear(nn.Linear):
    """A linear map outside of mixed precision. Its own class, since DeepSpeed's autocast picks the layers whose
    gradients may travel as bfloat16 by class, and W's may not."""


class SimVQ(nn.Module):
    """Vector quantization of encoder features. Its tensors are float32, and stay so when the model around it is cast
    (`to`, `half`, `bfloat16`); they go to other devices as any module's do.

    Args:
        width: D.
        codebook_size: K.
        codebook_dim: E; the paper finds that codes narrower than D collapse (Table 5).
        gradient: how the decoder's gradient passes the argmin: `straight_through`, or `rotation`
            (arXiv 2410.06424).
    """

    def __init__(
        self, width: int, codebook_size: int, codebook_dim: int, gradient: Gradient = "straight_through"
    ) -> None:
        super().__init__()
        self.gradient = gradient
        exact: dict[str, Any] = {"dtype": torch.float32}  # whatever torch's default is
        self.project = Float32Linear(width, codebook_dim, **exact)
        self.transform = Float32Linear(codebook_dim, codebook_dim, bias=False, **exact)  # W
        # Buffers: in every checkpoint and the same on every rank, yet never touched by an optimizer.
        self.register_buffer("codebook", torch.zeros(codebook_size, codebook_dim, **exact))  # C
        self.register_buffer("feature_mean", torch.zeros(width, **exact))
        self.register_buffer("feature_std", torch.ones(width, **exact))
        self.codebook: Tensor
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The projection an isometry, W the identity, so that distances among standardised features, among
        projected features and among codes start as the same thing; C normal until the data gives a better one."""
        nn.init.orthogonal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.eye_(self.transform.weight)
        nn.init.normal_(self.codebook)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SimVQ:
        """What all casts and moves of a module go through: of a cast, only where it moves to is taken."""

        def uncast(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(uncast, recurse)

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.codebook.shape[0]

    def forward(self, features: Tensor) -> Quantized:
        """Z_I (B, N, D) -> `Quantized`; float32 inside, whatever autocast says outside."""
        with torch.autocast(features.device.type, enabled=False):
            projected = self.embed(features)
            with torch.no_grad():
                codes = nearest_codes(projected, self.transform(self.codebook))
            chosen = self.lookup(codes)
            return Quantized(
                vectors=self._pass_gradient(projected, chosen),
                codes=codes,
                codebook_loss=F.mse_loss(chosen, projected.detach()),
                commitment_loss=F.mse_loss(projected, chosen.detach()),
                feature_norm=projected.detach().norm(dim=-1).mean(),
                code_norm=chosen.detach().norm(dim=-1).mean(),
            )

    def embed(self, features: Tensor) -> Tensor:
        """Z_I (B, N, D) -> Z_c (B, N, E): standardised per channel, then projected; float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.project((features.float() - self.feature_mean) / self.feature_std)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (...) in [0, K) -> their vectors C W (..., E), float32."""
        with torch.autocast(codes.device.type, enabled=False):
            if codes.numel() < self.codebook_size:  # the same numbers by the cheaper order
                return self.transform(F.embedding(codes, self.codebook))
            return F.embedding(codes, self.transform(self.codebook))

    def _pass_gradient(self, projected: Tensor, chosen: Tensor) -> Tensor:
        if self.gradient == "rotation":
            return rotate_to(projected, chosen)
        return projected + (chosen - projected).detach()


@torch.no_grad()
def nearest_codes(vectors: Tensor, table: Tensor, block: int = DISTANCE_BLOCK) -> Tensor:
    """Index of the l2-nearest row of `table` (K, E) for each of `vectors` (..., E); int64 (...).

    Computed over blocks of tokens, so that memory stays at `block` entries. Of equal distances the lowest index.
    """
    flat = vectors.reshape(-1, vectors.shape[-1]).float()
    table = table.float()
    # |v - c|^2 / 2 = |v|^2 / 2 - v c + |c|^2 / 2, of which the first is constant.
    half_squares = table.square().sum(-1) / 2
    rows = max(1, block // table.shape[0])
    codes = [torch.addmm(half_squares, part, table.T, alpha=-1).argmin(-1) for part in flat.split(rows)]
    return torch.cat(codes).view(vectors.shape[:-1])


def rotate_to(vectors: Tensor, targets: Tensor) -> Tensor:
    """The values of `targets`, with the gradient of the rotation and scaling that carries `vectors` there."""
    source = F.normalize(vectors.detach(), dim=-1)
    goal = F.normalize(targets.detach(), dim=-1)
    middle = F.normalize(source + goal, dim=-1)
    scale = targets.detach().norm(dim=-1, keepdim=True) / vectors.detach().norm(
        dim=-1, keepdim=True
    ).clamp_min(1e-12)

    def along(axis: Tensor) -> Tensor:
        return (vectors * axis).sum(-1, keepdim=True)

    return scale * (vectors - 2 * along(middle) * middle + 2 * along(source) * goal)
