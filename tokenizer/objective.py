"""What the generator minimises: the paper's equations 3 to 6 as one weighted sum.

L = L_rec + L_quant + lambda_d L_distill, with L_rec = l2 + lambda_p L_P + lambda_G L_G and
L_quant = codebook term + beta x commitment term.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.models.quantizer_input import Reading, read
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE, VQRAEOutput
from common.training.engine import Precision, autocast
from tokenizer import losses
from tokenizer.config import LossConfig


class GeneratorObjective:
    """Terms with their weights; a term whose weight is 0 is not computed."""

    def __init__(
        self,
        weights: LossConfig,
        model: VQRAE,
        teacher: VisionEncoder | None,
        perceptual: nn.Module | None,
        precision: Precision,
    ) -> None:
        self.weights, self.model, self.precision = weights, model, precision
        self.teacher, self.perceptual = teacher, perceptual

    def __call__(
        self, output: VQRAEOutput, pixels: Tensor, fake_logits: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what to report (detached scalars, unweighted).

        Args:
            output: of the generator's engine for `pixels` (B, 3, H, W).
            fake_logits: the discriminator's answer to the reconstruction, once the generator feels it.
        """
        weights, reconstruction = self.weights, output.reconstruction
        terms = {"l2": losses.reconstruction_l2(reconstruction, pixels)}
        total = weights.reconstruction * terms["l2"]
        reported: dict[str, Tensor] = {}
        if output.codes is not None:
            terms |= {"codebook": output.codebook_loss, "commitment": output.commitment_loss}
            total = total + weights.codebook * terms["codebook"] + weights.commitment * terms["commitment"]
            reported["z_over_q"] = output.feature_norm / output.code_norm.clamp_min(1e-12)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(reconstruction, pixels)
            total = total + weights.perceptual * terms["perceptual"]
        if self.teacher is not None:
            target, read_by_it = self._teach(pixels)
            if weights.distillation:
                terms["distillation"] = losses.self_distillation(output.features, target)
                total = total + weights.distillation * terms["distillation"]
            if weights.quantizer_distillation:
                terms["quantizer_distillation"] = losses.self_distillation(output.quantizer_input, read_by_it)
                total = total + weights.quantizer_distillation * terms["quantizer_distillation"]
            reported["teacher_cosine"] = losses.teacher_cosine(output.features, target)
        if fake_logits is not None:
            terms["adversarial"] = losses.generator_loss(fake_logits)
            total = total + weights.discriminator * terms["adversarial"]
        return total, {"loss": total.detach()} | {k: v.detach() for k, v in (terms | reported).items()}

    @torch.no_grad()
    def _teach(self, pixels: Tensor) -> Reading:
        assert self.teacher is not None
        with autocast(self.precision, pixels.device):
            return read(self.teacher, self.model.encoder_pixels(pixels), self.model.config.quantizer_layers)


def discriminator_objective(
    real_logits: Tensor, fake_logits: Tensor, lecam: losses.LeCam, lecam_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hinge loss with LeCam's regulariser, and what to report."""
    hinge = losses.discriminator_hinge(real_logits, fake_logits)
    penalty = lecam.penalty(real_logits, fake_logits)
    accuracy = losses.discriminator_accuracy(real_logits, fake_logits)
    return hinge + lecam_weight * penalty, {
        "d_hinge": hinge.detach(),
        "d_lecam": penalty.detach(),
        "d_accuracy": accuracy,
    }
