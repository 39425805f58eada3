"""Pretrained vision encoders behind one contract: RGB in [0, 1] -> the features that a language model reads.

What is notable here: the encoders are transformers' own classes, untouched, so whatever is trained can be
handed back as a plain checkpoint of that class. A family (SigLIP, InternViT) is a small sibling class that
states how its features are read and how its layers are stacked; the pixel decoder stacks the same layers.

Legend: B images, N = h w tokens, D encoder width, p patch size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    InternVLVisionConfig,
    InternVLVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.internvl.modeling_internvl import InternVLVisionEncoder
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from common.models.hub_format import save_tower, tower_config

Grid = tuple[int, int]


class VisionEncoder(nn.Module):
    """A vision tower of transformers, with its normalisation inside.

    Args:
        config: the tower's own config.
        image_mean, image_std: the tower's normalisation of RGB in [0, 1], three numbers each.
    """

    model_type: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]
    default_mean: ClassVar[tuple[float, float, float]]
    default_std: ClassVar[tuple[float, float, float]]

    def __init__(self, config: PreTrainedConfig, image_mean: Any = None, image_std: Any = None) -> None:
        super().__init__()
        self.image_mean = tuple(image_mean or self.default_mean)
        self.image_std = tuple(image_std or self.default_std)
        # Plain attributes and no buffers: a model that is built without memory and then filled from a checkpoint
        # would leave buffers that no checkpoint holds empty.
        self._normalization: tuple[Tensor, Tensor] | None = None
        self.model = self.model_class._from_config(config, attn_implementation=config._attn_implementation)
        self.freeze_unread()

    @property
    def width(self) -> int:
        """D."""
        return self.model.config.hidden_size

    @property
    def depth(self) -> int:
        """L, layers."""
        return self.model.config.num_hidden_layers

    @property
    def patch_size(self) -> int:
        """p, in pixels."""
        return side_of(self.model.config.patch_size)

    @property
    def image_size(self) -> int:
        """The resolution its positions were trained for, in pixels."""
        return side_of(self.model.config.image_size)

    def forward(
        self, pixels: Tensor, layers: Collection[int] | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """RGB in [0, 1] (B, 3, H, W) -> Z_I (B, N, D), raster order; where `layers` are named, Z_I and a list of these
        hidden states, all from one pass. H and W are multiples of p; where they differ from `image_size`, positions
        are interpolated."""
        pixel_values = self.normalize(pixels)
        if layers is None:
            return self.read(pixel_values)
        picked = []
        for number, state in enumerate(self.hidden_states(pixel_values)):
            if number in layers:
                picked.append(state)
        return state, picked

    def normalize(self, pixels: Tensor) -> Tensor:
        """RGB in [0, 1] -> the tower's `pixel_values`."""
        mean, std = self._moments(pixels.device)
        return (pixels - mean) / std

    def denormalize(self, pixel_values: Tensor) -> Tensor:
        """The tower's `pixel_values` -> RGB in [0, 1]."""
        mean, std = self._moments(pixel_values.device)
        return pixel_values * std + mean

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (3, 1, 1) each."""
        if self._normalization is None or self._normalization[0].device != device:
            # Once per device: copying numbers there waits for it.
            moments = (self.image_mean, self.image_std)
            mean, std = (torch.tensor(v, device=device, dtype=torch.float32) for v in moments)
            self._normalization = mean[:, None, None], std[:, None, None]
        return self._normalization

    def read(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> Z_I (B, N, D): what the downstream class reads."""
        for state in self.hidden_states(
            pixel_values
        ):  # each but the last is forgotten, unless a gradient needs it
            last = state
        return last

    def hidden_states(self, pixel_values: Tensor) -> Iterator[Tensor]:
        """Normalised pixels (B, 3, H, W) -> (B, N, D) each: the embeddings (number 0), and what every layer makes of
        them, numbered as in transformers' `hidden_states`; the last (number L) is Z_I."""
        raise NotImplementedError

    def unread_parameters(self) -> list[nn.Parameter]:
        """Parameters behind the point where Z_I is read; they get no gradient and stay as they were."""
        return []

    def freeze_unread(self) -> None:
        for parameter in self.unread_parameters():
            parameter.requires_grad_(False)

    def drop_head(self) -> None:
        """Forget a head behind all features that are read; nothing that is computed changes."""

    @staticmethod
    def layers(config: PreTrainedConfig) -> nn.Module:
        """The family's transformer layers alone, (B, N, D) -> .last_hidden_state (B, N, D)."""
        raise NotImplementedError

    def image_processor(self) -> Any:
        """The processor that turns a picture into this tower's `pixel_values`."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tower as a plain folder of its own class, with its image processor beside it."""
        save_tower(folder, self.model, self.image_processor())


class SiglipVisionEncoder(VisionEncoder):
    """SigLIP and fixed-resolution SigLIP2. Z_I is `hidden_states[-1]`, before `post_layernorm`: what LLaVA reads
    with `vision_feature_layer=-1` and the `full` strategy."""

    model_type = "siglip_vision_model"
    model_class = SiglipVisionModel
    default_mean = default_std = (0.5, 0.5, 0.5)

    def hidden_states(self, pixel_values: Tensor) -> Iterator[Tensor]:
        yield (hidden := self.model.embeddings(pixel_values, interpolate_pos_encoding=True))
        for layer in self.model.encoder.layers:
            yield (hidden := layer(hidden, None))  # without a mask

    def unread_parameters(self) -> list[nn.Parameter]:
        head = self.model.head.parameters() if self.model.use_head else []
        return [*self.model.post_layernorm.parameters(), *head]

    def drop_head(self) -> None:
        if self.model.use_head:
            del self.model.head
            self.model.use_head, self.model.config = False, tower_config(self.model.config)

    @staticmethod
    def layers(config: PreTrainedConfig) -> nn.Module:
        return SiglipEncoder(config)

    def image_processor(self) -> Any:
        from transformers import SiglipImageProcessor

        side = {"height": self.image_size, "width": self.image_size}
        return SiglipImageProcessor(
            size=side, image_mean=list(self.image_mean), image_std=list(self.image_std)
        )


class InternVisionEncoder(VisionEncoder):
    """InternViT as in the `-hf` InternVL checkpoints. Z_I is `last_hidden_state` without the CLS token."""

    model_type = "internvl_vision"
    model_class = InternVLVisionModel
    default_mean = (0.485, 0.456, 0.406)
    default_std = (0.229, 0.224, 0.225)

    def hidden_states(self, pixel_values: Tensor) -> Iterator[Tensor]:
        hidden = self.model.embeddings(pixel_values)
        for layer in self.model.encoder.layer:
            yield hidden[:, 1:]
            hidden = layer(hidden)
        yield self.model.layernorm(hidden)[:, 1:]  # no norm in the InternVL checkpoints

    @staticmethod
    def layers(config: PreTrainedConfig) -> nn.Module:
        return InternVLVisionEncoder(config)

    def image_processor(self) -> Any:
        from transformers import GotOcr2ImageProcessor

        return GotOcr2ImageProcessor(
            size={"height": self.image_size, "width": self.image_size},
            image_mean=list(self.image_mean),
            image_std=list(self.image_std),
            crop_to_patches=False,
        )


FAMILIES: dict[str, type[VisionEncoder]] = {
    family.model_type: family for family in (SiglipVisionEncoder, InternVisionEncoder)
}
CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "siglip_vision_model": SiglipVisionConfig,
    "internvl_vision": InternVLVisionConfig,
}


def grid_of(pixels: Tensor, patch: int) -> Grid:
    """(h, w) of the token grid of (B, 3, H, W).

    Raises:
        ValueError: H or W is no multiple of the patch size.
    """
    height, width = pixels.shape[-2:]
    if height % patch or width % patch or not height or not width:
        raise ValueError(f"pixels: expected sides that are multiples of {patch}, found {height} x {width}")
    return height // patch, width // patch


def interpolate_positions(positions: Tensor, grid: Grid) -> Tensor:
    """Learned positions (1, h0, w0, D) -> (1, h w, D) for another grid, bicubic as the encoders do it."""
    if tuple(positions.shape[1:3]) == tuple(grid):
        return positions.flatten(1, 2)
    resized = torch.nn.functional.interpolate(
        positions.permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False
    )
    return resized.flatten(2).transpose(1, 2)


def side_of(value: int | list[int] | tuple[int, ...]) -> int:
    """Of a square that a config states by one side or by both."""
    return value if isinstance(value, int) else value[0]
