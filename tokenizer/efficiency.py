"""How fast training is, and which share of a GPU's peak it reaches (see `common/training/efficiency.py`).

Operations are counted by going through one micro-batch on tensors that have a shape and no memory: forward, and
backward to wherever a gradient goes. So what is frozen, what only passes a gradient on, and what learns each count as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.training.efficiency import Efficiency
from tokenizer.assemble import assemble_discriminator, model_on_meta
from tokenizer.config import TokenizerConfig


@dataclass(frozen=True)
class ImageFlops:
    """Operations per image.

    Args:
        generator: to reconstruct, and to learn from every term but the adversarial one.
        felt: the adversarial term, through a discriminator that does not learn from it.
        learning: the discriminator's own step, on a picture and its reconstruction.
    """

    generator: float = 0.0
    felt: float = 0.0
    learning: float = 0.0


class TokenizerEfficiency(Efficiency):
    """Counts of a micro-batch. Its operations are 0 where no peak is known to compare them with."""

    def __init__(self, config: TokenizerConfig, perceptual: nn.Module | None, device: torch.device) -> None:
        super().__init__(device)
        self._flops = ImageFlops() if self.peak is None else image_flops(config, perceptual)

    def count(self, images: int, *, felt: bool, learning: bool) -> dict[str, float]:
        """Of one micro-batch; whether the generator feels the discriminator in it, and whether that learns."""
        flops = self._flops.generator + felt * self._flops.felt + learning * self._flops.learning
        return {"images": images, "flops": images * flops}


def image_flops(config: TokenizerConfig, perceptual: nn.Module | None) -> ImageFlops:
    """What a run of this recipe computes for each image. Draws no random number, and leaves `perceptual`, which may be
    on any device, as it is."""
    model = model_on_meta(config.model)
    with torch.device("meta"):
        critic = assemble_discriminator(config)

    def generator_step() -> Tensor:
        output = _run(model, pixels, quantize=config.model.quantize)
        loss = sum(value.sum() for value in output.values() if value.requires_grad)
        if config.loss.teaches:
            with torch.no_grad():
                _run(model.encoder, model.encoder_pixels(pixels))
        if perceptual is not None:
            loss = loss + _run(perceptual, output.reconstruction, pixels)
        return loss

    # The counter knows no attention of a CPU but by its plain products.
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        batch, side = config.batch.micro_size, config.data.image_size
        pixels = torch.empty(batch, 3, side, side)
        generator = _flops(generator_step) / batch
        if critic is None:
            return ImageFlops(generator=generator)
        learning = _flops(lambda: _run(critic, torch.cat([pixels, pixels])).sum()) / batch
        critic.requires_grad_(False)
        felt = _flops(lambda: _run(critic, pixels.clone().requires_grad_()).sum()) / batch
    return ImageFlops(generator=generator, felt=felt, learning=learning)


def _flops(step: Callable[[], Tensor]) -> int:
    """Operations of `step` and of the backward pass from its scalar."""
    with FlopCounterMode(display=False) as counter:
        step().backward()
    return counter.get_total_flops()


def _run(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """What `module` gives for `inputs`, by stand-ins for its tensors that have no memory."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    stand_ins = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
        for name, tensor in tensors.items()
    }
    return functional_call(module, stand_ins, inputs, options)
