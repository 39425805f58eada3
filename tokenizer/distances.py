"""What reconstructions are measured by while training, beside PSNR and SSIM: does the discriminator do any good?

Two kinds. A distance of pictures compares each with its reconstruction (`lpips`; `random_features` has its form and
needs no weights). A Frechet distance compares the set of pictures with the set of reconstructions, as a network sees
them: `rfid` through FID's Inception; `frechet_encoder` through the encoder that the run started from, which is at hand
offline. The latter is no FID, and its figures compare with those of the same encoder alone.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.data.images import to_float
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE
from common.training.engine import Precision, autocast
from tokenizer.config import TokenizerConfig
from tokenizer.perceptual import Frozen, Lpips, RandomFeatures
from tokenizer.pretrained import load_inception_fid, load_lpips


class Distances(NamedTuple):
    """By the names of `evaluation.distances`, as `ReconstructionMetrics` takes them."""

    of_pictures: dict[str, nn.Module]
    of_sets: dict[str, nn.Module]


class EncoderFeatures(Frozen):
    """Pictures as a frozen encoder sees them: uint8 (B, 3, h q, w q) -> (B, D), the mean of Z_I over tokens, float32.

    Args:
        model: of the pictures' size q a token, and the encoder's.
        encoder: it stays as it is.
    """

    def __init__(self, model: VQRAE, encoder: VisionEncoder, precision: Precision) -> None:
        super().__init__()
        self.encoder, self.precision, self.num_features = encoder, precision, encoder.width
        self.to_encoder = model.encoder_pixels
        if encoder is not model.encoder:
            self.freeze()

    def forward(self, pictures: Tensor) -> Tensor:
        pixels = self.to_encoder(to_float(pictures))
        with autocast(self.precision, pixels.device):
            return self.encoder(pixels).float().mean(dim=1)


def build_distances(
    config: TokenizerConfig,
    model: VQRAE,
    teacher: VisionEncoder | None,
    perceptual: nn.Module | None,
    device: torch.device,
) -> Distances:
    """Those that the recipe asks for; none without a held-out set. Call it before `model` has learned anything.

    Args:
        teacher: of the self-distillation: the encoder that the run started from. Without one, and where the encoder
            learns, a copy is kept.
        perceptual: the loss; where it looks through VGG, so does `lpips`.

    Raises:
        UserError: weights are absent and cannot be downloaded, or do not fit; names the file and the option.
    """
    asked = config.evaluation.distances if config.evaluation.images is not None else ()
    of_pictures: dict[str, nn.Module] = {}
    of_sets: dict[str, nn.Module] = {}
    if "lpips" in asked:
        of_pictures["lpips"] = _lpips(config, perceptual).to(device)
    if "random_features" in asked:
        of_pictures["random_features"] = RandomFeatures().to(device)
    if "rfid" in asked:
        weights = config.evaluation.inception_weights
        of_sets["rfid"] = load_inception_fid(weights, "evaluation.inception_weights").to(device)
    if "frechet_encoder" in asked:
        encoder = teacher
        if encoder is None:
            encoder = model.encoder if config.model.freeze_encoder else copy.deepcopy(model.encoder)
        of_sets["frechet_encoder"] = EncoderFeatures(model, encoder, config.engine.precision).to(device)
    return Distances(of_pictures, of_sets)


def _lpips(config: TokenizerConfig, perceptual: nn.Module | None) -> nn.Module:
    for module in perceptual.modules() if perceptual is not None else ():
        if isinstance(module, Lpips):
            return module
    weights = config.loss.perceptual_model.lpips_vgg_weights
    return Lpips(load_lpips(weights, "loss.perceptual_model.lpips_vgg_weights"))
