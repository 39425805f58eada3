"""VQRAE: one encoder, continuous features for understanding, discrete codes for generation, pixels back again.

A standard Hugging Face model: `save_pretrained`, `from_pretrained` and `push_to_hub` are the library's, the
weights are safetensors, and one checkpoint holds encoder, quantizer and decoder and nothing that only training
needs. Pixels are RGB in [0, 1] at the output resolution; the encoder's resolution and normalisation are inside.

Legend: B images, N = h w tokens, D encoder width, E code width, K codes, p encoder patch, q output patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from common.files import obeying_umask
from common.models.pixel_decoder import PixelDecoder
from common.models.quantizer import Quantized, SimVQ
from common.models.quantizer_input import Reading, layers_problem, read
from common.models.vision_encoder import FAMILIES, Grid, VisionEncoder, grid_of, side_of


class VQRAEConfig(PreTrainedConfig):
    """Everything that shapes a VQRAE.

    Args:
        encoder_config: config of a `SiglipVisionModel` or an `InternVLVisionModel`.
        image_mean, image_std: the encoder's normalisation.
        codebook_size: K. codebook_dim: E.
        output_patch_size: q, pixels per token side in the output.
        gradient: how gradients pass the quantizer.
        quantizer_layers: numbers of the hidden states that the quantizer reads, see
            `common/models/quantizer_input.py`; None: Z_I alone, as in the paper.
    """

    model_type = "vqrae"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model")
    }

    encoder_config: dict | PreTrainedConfig | None = None
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    codebook_size: int = 16384  # Table 7
    codebook_dim: int = 1536  # Table 7
    output_patch_size: int = 16
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    quantizer_layers: list[int] | tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is written; the paper's model says nothing of a choice that older versions did not have."""
        tree = super().to_dict()
        if tree.get("quantizer_layers") is None:
            tree.pop("quantizer_layers", None)
        return tree

    @property
    def image_size(self) -> int:
        """Side of the training resolution at the output, in pixels."""
        return self.grid[0] * self.output_patch_size

    @property
    def grid(self) -> Grid:
        """(h, w) of the training resolution."""
        size, patch = (side_of(getattr(self.encoder_config, key)) for key in ("image_size", "patch_size"))
        return size // patch, size // patch


@dataclass
class VQRAEEncoding(ModelOutput):
    """features Z_I (B, N, D), continuous; codes (B, h, w) int64 in [0, K); quantizer_input (B, N, D), of which the
    codes are the nearest: the features themselves, unless `config.quantizer_layers` names others."""

    features: Tensor = None  # type: ignore[assignment]  # ModelOutput wants defaults
    codes: Tensor = None  # type: ignore[assignment]
    quantizer_input: Tensor = None  # type: ignore[assignment]


@dataclass
class VQRAEOutput(ModelOutput):
    """reconstruction (B, 3, H, W), around [0, 1] and not clamped; features and quantizer_input (B, N, D), as in
    `VQRAEEncoding`; codes (B, h, w), absent without quantization; the quantizer's two losses and norms, scalars."""

    reconstruction: Tensor = None  # type: ignore[assignment]
    features: Tensor = None  # type: ignore[assignment]
    quantizer_input: Tensor = None  # type: ignore[assignment]
    codes: Tensor | None = None
    codebook_loss: Tensor = None  # type: ignore[assignment]
    commitment_loss: Tensor = None  # type: ignore[assignment]
    feature_norm: Tensor = None  # type: ignore[assignment]
    code_norm: Tensor = None  # type: ignore[assignment]


class VQRAE(PreTrainedModel):
    """The tokenizer. `VQRAE(config)` has random weights; see `from_encoder` for a pretrained start."""

    config: VQRAEConfig
    config_class = VQRAEConfig
    base_model_prefix = "vqrae"
    main_input_name = "pixels"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar[list[str]] = ["SiglipEncoderLayer", "InternVLVisionLayer", "SimVQ"]

    def __init__(self, config: VQRAEConfig) -> None:
        super().__init__(config)
        tower: Any = config.encoder_config
        tower._attn_implementation = self.config._attn_implementation  # for encoder and decoder alike
        family = FAMILIES[tower.model_type]
        self.encoder = family(tower, config.image_mean, config.image_std)
        if problem := layers_problem(config.quantizer_layers, self.encoder.depth):
            raise ValueError(f"quantizer_layers: {problem}")
        self.quantizer = SimVQ(self.encoder.width, config.codebook_size, config.codebook_dim, config.gradient)
        self.decoder = PixelDecoder(family, tower, config.codebook_dim, config.output_patch_size, config.grid)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        encoder: VisionEncoder,
        codebook_size: int,
        codebook_dim: int,
        output_patch_size: int | None = None,
        **kwargs: Any,
    ) -> VQRAE:
        """A fresh quantizer and decoder around a pretrained encoder; q defaults to the encoder's patch size."""
        attention = encoder.model.config._attn_implementation  # the composite config resets it
        config = VQRAEConfig(
            encoder_config=encoder.model.config,
            image_mean=list(encoder.image_mean),
            image_std=list(encoder.image_std),
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            output_patch_size=output_patch_size or encoder.patch_size,
            **kwargs,
        )
        model = cls._from_config(config, attn_implementation=attention)
        model.encoder.load_state_dict(encoder.state_dict())
        return model

    def forward(self, pixels: Tensor, quantize: bool = True) -> VQRAEOutput:
        """RGB in [0, 1] (B, 3, H, W), H and W multiples of q -> `VQRAEOutput`.

        `quantize=False` passes Z_c by the codebook: the continuous autoencoder, the quantizer's upper bound.
        """
        grid = grid_of(pixels, self.config.output_patch_size)
        features, quantizer_input = self.read(self.encoder_pixels(pixels))
        if not quantize:
            return VQRAEOutput(
                reconstruction=self.decoder(self.quantizer.embed(quantizer_input), grid),
                features=features,
                quantizer_input=quantizer_input,
            )
        quantized: Quantized = self.quantizer(quantizer_input)
        return VQRAEOutput(
            reconstruction=self.decoder(quantized.vectors, grid),
            features=features,
            quantizer_input=quantizer_input,
            codes=quantized.codes.unflatten(1, grid),
            codebook_loss=quantized.codebook_loss,
            commitment_loss=quantized.commitment_loss,
            feature_norm=quantized.feature_norm,
            code_norm=quantized.code_norm,
        )

    def read(self, encoder_pixels: Tensor) -> Reading:
        """RGB as the encoder sees it (B, 3, h p, w p), see `encoder_pixels` -> features and the quantizer's input, in
        one pass of the encoder. Whatever is quantized comes from here."""
        return read(self.encoder, encoder_pixels, self.config.quantizer_layers)

    def encode_features(self, pixels: Tensor) -> Tensor:
        """RGB in [0, 1] (B, 3, h q, w q) -> Z_I (B, N, D), for a language model and not for the quantizer."""
        return self.encoder(self.encoder_pixels(pixels))

    def encoder_pixels(self, pixels: Tensor) -> Tensor:
        """RGB (B, 3, h q, w q) as the encoder sees it, (B, 3, h p, w p): resized where p differs from q (bicubic,
        antialiased; decision 10)."""
        height, width = grid_of(pixels, self.config.output_patch_size)
        patch = self.encoder.patch_size
        if patch == self.config.output_patch_size:
            return pixels
        size = (height * patch, width * patch)
        return F.interpolate(pixels.float(), size, mode="bicubic", antialias=True, align_corners=False).clamp(
            0, 1
        )

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> VQRAEEncoding:
        """RGB in [0, 1] (B, 3, H, W) -> features (B, N, D) for understanding, codes (B, h, w) for generation."""
        grid = grid_of(pixels, self.config.output_patch_size)
        features, quantizer_input = self.read(self.encoder_pixels(pixels))
        codes = self.quantizer(quantizer_input).codes.unflatten(1, grid)
        return VQRAEEncoding(features=features, codes=codes, quantizer_input=quantizer_input)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> RGB in [0, 1] (B, 3, h q, w q), float32.

        Raises:
            ValueError: a code out of range, or another shape.
        """
        if codes.ndim != 3:
            raise ValueError(f"codes: expected shape (B, h, w), found {tuple(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size:
            raise ValueError(
                f"codes: expected 0 to {self.config.codebook_size - 1}, found {int(codes.min())} to {int(codes.max())}"
            )
        grid = (codes.shape[1], codes.shape[2])
        return self.decoder(self.quantizer.lookup(codes.flatten(1)), grid).float().clamp(0, 1)

    @torch.no_grad()
    def decode_features(self, features: Tensor, grid: Grid) -> Tensor:
        """Z_I (B, h w, D) -> RGB in [0, 1], through the nearest codes.

        Raises:
            ValueError: this model's codes are made of other hidden states.
        """
        if self.config.quantizer_layers is not None:
            raise ValueError(
                f"features: the quantizer of this model reads the hidden states {list(self.config.quantizer_layers)}; "
                "decode_quantizer_input takes what it reads, `encode(pixels).quantizer_input`"
            )
        return self.decode_quantizer_input(features, grid)

    @torch.no_grad()
    def decode_quantizer_input(self, quantizer_input: Tensor, grid: Grid) -> Tensor:
        """What the quantizer reads (B, h w, D) -> RGB in [0, 1], through the nearest codes."""
        return self.decode(self.quantizer(quantizer_input).codes.unflatten(1, grid))

    def image_processor(self) -> CLIPImageProcessor:
        """Picture -> `pixel_values` in [0, 1]: shorter edge resized (bicubic), centre crop, no normalisation."""
        size = self.config.image_size
        return CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_normalize=False
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Weights and config, with the image processor beside them."""
        with obeying_umask(save_directory):
            super().save_pretrained(save_directory, **kwargs)
            self.image_processor().save_pretrained(save_directory)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The encoder is a model of its own and initialises itself; SimVQ has done so; what is left is the decoder:
        # matrices with a standard deviation of 0.02, as in TiTok.
        if isinstance(module, PixelDecoder):
            init.normal_(module.positions, std=0.02)
            init.constant_(module.to_pixels.bias, 0.5)  # mid-grey before the first step
        elif not any(module is part for part in self.quantizer.modules()):
            super()._init_weights(module)


AutoConfig.register(VQRAEConfig.model_type, VQRAEConfig)
AutoModel.register(VQRAEConfig, VQRAE)
AutoImageProcessor.register(VQRAEConfig, image_processor_classes={"torchvision": CLIPImageProcessor})
