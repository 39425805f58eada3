"""A saved VQRAE, strictly: its own kind of config, and every weight, neither more nor less. Or its encoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common.models.encoder_loading import build_encoder, load_encoder
from common.models.strict_loading import check_architecture, load_strictly
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE, VQRAEConfig
from common.models.weight_files import check_model_type, read_config_json, resolve_folder

VQRAE_FOLDER = "vqrae"
"""Where a generator's folder holds the VQRAE whose codes it writes."""


def vqrae_folder(folder: Path) -> Path:
    """Where a VQRAE would stand: a generator's folder holds one in `vqrae/`, any other folder would be one itself."""
    inner = folder / VQRAE_FOLDER
    return inner if (inner / "config.json").is_file() else folder


def load_vqrae(source: str, attn_implementation: str = "sdpa") -> tuple[VQRAE, Path]:
    """The VQRAE at `source` in float32, and the folder its weights stand in.

    `source` is a VQRAE's folder, a hub id, or a generator's folder, whose VQRAE is in `vqrae/`.

    Raises:
        UserError: no checkpoint there, one of another kind, or weights that do not fit its config.
    """
    folder = vqrae_folder(resolve_folder(source))
    check_model_type(folder, VQRAEConfig.model_type)
    model = load_strictly(VQRAE, folder, "a VQRAE", attn_implementation=attn_implementation)
    return model.float(), folder


def load_tower(
    source: str, architecture: dict[str, Any] | None = None, attn_implementation: str = "sdpa"
) -> VisionEncoder:
    """The encoder of the VQRAE at `source` (see `load_vqrae`), or the plain tower there (see `load_encoder`).

    Raises:
        UserError: neither is there, or one of another architecture.
    """
    folder = vqrae_folder(resolve_folder(source))
    if read_config_json(folder).get("model_type") != VQRAEConfig.model_type:
        return load_encoder(source, architecture, attn_implementation)
    encoder = load_vqrae(source, attn_implementation)[0].encoder
    check_architecture(encoder.model.config, architecture or {}, source)
    return encoder


def vqrae_on_meta(encoder: dict[str, Any], *sizes: int, **fields: Any) -> VQRAE:
    """A VQRAE without weights, to be counted.

    Args:
        encoder: the architecture of its tower. sizes, fields: as `VQRAE.from_encoder` takes them.
    """
    with torch.device("meta"):
        return VQRAE.from_encoder(build_encoder(encoder), *sizes, **fields)
