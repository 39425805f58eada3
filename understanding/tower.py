"""The vision tower: the encoder of a VQRAE, frozen, and known by what it computes."""

from __future__ import annotations

from transformers import SiglipVisionConfig

from common.errors import UserError
from common.models import vqrae_loading
from common.models.vision_encoder import VisionEncoder
from common.models.weight_files import state_sha256
from understanding.config import Architecture


def load_tower(source: str, architecture: Architecture, attn_implementation: str = "sdpa") -> VisionEncoder:
    """The frozen tower in float32, without a pooling head: the encoder of a VQRAE, or a plain SigLIP tower (also
    inside a LLaVA folder).

    Args:
        source: a folder or a hub id.
        architecture: config fields that it must have.

    Raises:
        UserError: nothing at `source`, another architecture, or no SigLIP.
    """
    encoder = vqrae_loading.load_tower(source, architecture, attn_implementation)
    if encoder.model_type != SiglipVisionConfig.model_type:
        raise UserError(f"{source}: model_type: {only_siglip(encoder.model_type)}")
    encoder.drop_head()
    return encoder.requires_grad_(False).eval()


def tower_hash(encoder: VisionEncoder) -> str:
    """By which a run and a model know their tower, also where it was exported in bfloat16."""
    return state_sha256(encoder.model.state_dict(), rounded=True)


def only_siglip(found: str) -> str:
    """The end of a complaint about a tower of another kind."""
    return f"understanding is trained on {SiglipVisionConfig.model_type}, found {found!r} (for InternViT: internvl.py)"
