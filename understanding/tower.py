"""The vision tower: the encoder of a VQRAE, frozen, and known by what it computes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from transformers import SiglipVisionConfig

from common.errors import UserError
from common.models.encoder_loading import load_encoder
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae_loading import load_vqrae
from common.models.weight_files import check_architecture, resolve_folder
from understanding.config import Architecture


def load_tower(source: str, architecture: Architecture, attn_implementation: str = "sdpa") -> VisionEncoder:
    """The frozen tower in float32: the encoder of a VQRAE, or a plain SigLIP tower (also inside a LLaVA folder).

    Args:
        source: a folder or a hub id.
        architecture: config fields that it must have.

    Raises:
        UserError: nothing at `source`, another architecture, or no SigLIP.
    """
    folder = resolve_folder(source)
    if _model_type(folder) == "vqrae" or (folder / "vqrae" / "config.json").is_file():
        encoder = load_vqrae(source, attn_implementation)[0].encoder
        check_architecture(encoder.model.config, dict(architecture), source)
    else:
        encoder = load_encoder(source, dict(architecture), attn_implementation)
    if encoder.model_type != SiglipVisionConfig.model_type:
        raise UserError(f"{source}: model_type: {only_siglip(encoder.model_type)}")
    return encoder.requires_grad_(False).eval()


def tower_hash(encoder: VisionEncoder) -> str:
    """SHA-256 over names and values of all tensors, 64 hex digits.

    Values count in bfloat16, so that a tower exported in that precision is still the tower it was.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        rounded = tensor.detach().to("cpu", torch.bfloat16) if tensor.is_floating_point() else tensor.cpu()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(rounded.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def only_siglip(found: str) -> str:
    """The end of a complaint about a tower of another kind."""
    return f"understanding is trained on {SiglipVisionConfig.model_type}, found {found!r} (for InternViT: internvl.py)"


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError):
        return ""  # whoever reads it in earnest says what is wrong
