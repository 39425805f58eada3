"""Hot paths of the tokenizer: on the device they give what they give on the CPU.

The codes of float32 vectors may differ where two codes are equally near within rounding, and nowhere else: that is
decided in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.models.encoder_loading import build_encoder
from common.models.quantizer import SimVQ, nearest_codes
from common.models.vqrae import VQRAE
from tokenizer.discriminator import Discriminator, DiscriminatorConfig
from tokenizer.perceptual import Perceptual, RandomFeatures

TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
}
CODES = 512
ROUNDING = 1e-5  # relative, of a float32 sum of so many products


def codes_of_random_vectors(device: torch.device, small: bool) -> str:
    """Nearest codes of random vectors are the CPU's."""
    tokens, codes, width = (256, 512, 64) if small else (4096, 16384, 1536)
    vectors, table = torch.randn(tokens, width), torch.randn(codes, width)
    there = nearest_codes(vectors.to(device), table.to(device)).cpu()
    return same_codes(vectors, table, nearest_codes(vectors, table), there)


def codes_of_near_ties(device: torch.device, small: bool) -> str:
    """Nearest codes of vectors half way between two codes are the CPU's."""
    codes, width = (512, 64) if small else (4096, 1536)
    table = torch.randn(codes, width)
    vectors = (table + table.roll(1, 0)) / 2 + 1e-4 * torch.randn(codes, width)
    there = nearest_codes(vectors.to(device), table.to(device)).cpu()
    return same_codes(vectors, table, nearest_codes(vectors, table), there)


def quantizer_under_autocast(device: torch.device, small: bool) -> str:
    """The quantizer under bfloat16 autocast finds the codes it finds without, and its gradient is the CPU's."""
    quantizer = SimVQ(64, CODES, 96)
    features = torch.randn(4, 64, 64)

    def gradient(module: SimVQ, place: torch.device) -> tuple[Tensor, Tensor]:
        module = module.to(place)
        module.zero_grad()
        with torch.autocast(place.type, dtype=torch.bfloat16):
            out = module(features.to(place))
        (out.codebook_loss + out.commitment_loss + out.vectors.square().mean()).backward()
        assert module.transform.weight.grad is not None
        return out.codes.cpu(), module.transform.weight.grad.cpu()

    plain = quantizer(features).codes
    (codes, grad), (there, grad_there) = (
        gradient(quantizer, place) for place in (torch.device("cpu"), device)
    )
    assert torch.equal(codes, plain), "autocast changes the codes on the CPU"
    assert torch.equal(there, codes), f"{(there != codes).sum()} of {codes.numel()} codes differ"
    torch.testing.assert_close(grad_there, grad, rtol=1e-3, atol=1e-6)
    return f"{codes.numel()} codes equal"


def vqrae_there_and_back(device: torch.device, small: bool) -> str:
    """A VQRAE encodes and decodes as on the CPU."""
    model = VQRAE.from_encoder(build_encoder(TOWER), CODES, 96, 8).eval()
    pixels = torch.rand(8, 3, 64, 64)
    here = model.encode(pixels)
    decoded = model.decode(here.codes)
    model.to(device)
    there = model.encode(pixels.to(device))
    torch.testing.assert_close(there.features.cpu(), here.features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.decode(here.codes.to(device)).cpu(), decoded, rtol=1e-3, atol=1e-4)
    share = float((there.codes.cpu() == here.codes).float().mean())
    assert share > 0.99, f"{share:.1%} of the codes are equal"
    return f"{share:.1%} of {here.codes.numel()} codes equal"


def losses_and_discriminator(device: torch.device, small: bool) -> str:
    """Perceptual loss and discriminator have the CPU's values and gradients."""
    judge = Perceptual([(1.0, RandomFeatures())])
    critic = Discriminator(DiscriminatorConfig(width=32, stages=2, pool=4))
    pixels, pictures = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)

    def gradient(place: torch.device) -> Tensor:
        given = pixels.clone().to(place).requires_grad_()
        (judge.to(place)(given, pictures.to(place)) - critic.to(place)(given).mean()).backward()
        assert given.grad is not None
        return given.grad.cpu()

    torch.testing.assert_close(gradient(device), gradient(torch.device("cpu")), rtol=1e-2, atol=1e-6)
    return ""


def same_codes(vectors: Tensor, table: Tensor, here: Tensor, there: Tensor) -> str:
    """How many codes are equal; those that differ must be equally near, within float32's rounding."""
    differ = here != there
    pairs = [
        (vectors[differ].double() - table[codes[differ]].double()).norm(dim=-1) for codes in (here, there)
    ]
    gap = ((pairs[0] - pairs[1]).abs() / pairs[0].clamp_min(1e-12)).max() if differ.any() else torch.zeros(())
    assert float(gap) < ROUNDING, (
        f"{int(differ.sum())} codes differ, by up to {float(gap):.1e} of the distance"
    )
    return f"{here.numel() - int(differ.sum())} of {here.numel()} codes equal, the others tie"


CHECKS = (
    codes_of_random_vectors,
    codes_of_near_ties,
    quantizer_under_autocast,
    vqrae_there_and_back,
    losses_and_discriminator,
)
