"""The tokenizer's loss terms: unweighted, float32, means over all elements.

Weights belong to the recipe; here stands only the mathematics. Every function casts its inputs to float32
first, so it may be called on what an autocast region returns. The adversarial terms are TiTok's (hinge, and
the LeCam regulariser of Tseng et al., arXiv 2104.03310); what differs is that LeCam's means are those of the
global batch, so that every rank holds the same state and the penalty does not depend on the number of ranks.

Legend: B images, N tokens, D encoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import dist


def reconstruction_l2(reconstruction: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error of (B, 3, H, W) images in [0, 1]; the reconstruction is not clamped."""
    return F.mse_loss(reconstruction.float(), pixels.float())


def self_distillation(features: Tensor, teacher_features: Tensor) -> Tensor:
    """mean((Z_I - T(X))^2) over (B, N, D), of raw encoder features, or of what the quantizer reads of student and
    teacher; no gradient reaches the teacher."""
    return F.mse_loss(features.float(), teacher_features.detach().float())


@torch.no_grad()
def teacher_cosine(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean over tokens of the cosine between student and teacher features (B, N, D): 1 is unmoved."""
    return F.cosine_similarity(features.float(), teacher_features.float(), dim=-1).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-E[D(X')]; the logits must come from reconstructions that still carry gradient."""
    return -fake_logits.float().mean()


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """0.5 (E[relu(1 - D(X))] + E[relu(1 + D(X'))]); X' is detached by the caller."""
    real, fake = real_logits.float(), fake_logits.float()
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


@torch.no_grad()
def discriminator_accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of logits on the right side of 0, real and fake weighted equally; 0.5 is a guess."""
    return 0.5 * ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean())


def lecam_penalty(real_mean: Tensor, fake_mean: Tensor, ema_real: Tensor, ema_fake: Tensor) -> Tensor:
    """relu(real - ema_fake)^2 + relu(ema_real - fake)^2 of scalar mean logits."""
    return F.relu(real_mean - ema_fake).square() + F.relu(ema_real - fake_mean).square()


class LeCam(nn.Module):
    """LeCam regulariser with its running means, equal on all ranks.

    `penalty` is called once per micro-batch and reads the means of earlier updates; `update`, called once per
    discriminator update, folds the micro-batches seen since into the running means. So neither the number of
    ranks nor that of accumulation steps changes the state. Both means start at zero, as in TiTok.
    """

    ema_real: Tensor
    ema_fake: Tensor
    _seen: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))
        # Sums of the real and fake means since the last update, and how many. Checkpoints are written after
        # updates, when these are zero, so they need not be saved.
        self.register_buffer("_seen", torch.zeros(3), persistent=False)

    def penalty(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The scalar penalty for one micro-batch of logits; a collective where several ranks train.

        Ranks must hold equally many logits. The value is that of the global means; the gradient is that of
        the local ones, which averaged over ranks (as data-parallel engines do) is the gradient of the value.
        """
        local = torch.stack([real_logits.float().mean(), fake_logits.float().mean()])
        means = dist.sum_(local.detach().clone()) / dist.world()
        self._seen += torch.cat([means, means.new_ones(1)])
        real_mean, fake_mean = means + (local - local.detach())
        return lecam_penalty(real_mean, fake_mean, self.ema_real, self.ema_fake)

    @torch.no_grad()
    def update(self) -> None:
        """Move the running means towards those seen since the last update; what is not finite is not seen."""
        real, fake, count = self._seen.unbind()
        for mean, total in ((self.ema_real, real), (self.ema_fake, fake)):
            seen = total / count
            mean.lerp_(torch.where(torch.isfinite(seen), seen, mean), 1.0 - self.decay)
        self._seen.zero_()
