"""Pretrained vision towers from a hub id or a local folder.

One path for every kind of checkpoint: a plain tower, the vision part of a full SigLIP or InternVL model, or the
original InternViT with its own key names. What is left unread is reported, what is missing is an error.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig

from common.errors import UserError, one_line
from common.models.internvit_keys import ORIGINAL_TYPES, convert_config, convert_weights
from common.models.vision_encoder import CONFIGS, FAMILIES, VisionEncoder

log = logging.getLogger(__name__)

# Where a tower may stand inside a checkpoint; the longest that fits a key wins.
PREFIXES = ("model.vision_tower.vision_model.", "model.vision_tower.", "vision_tower.", "vision_model.", "")


def load_encoder(
    source: str, expected: dict[str, Any] | None = None, attn_implementation: str = "sdpa"
) -> VisionEncoder:
    """The tower at `source`, a local folder or a hub id, in float32.

    Args:
        expected: architecture facts (config field -> value) that the checkpoint must have.

    Raises:
        UserError: nothing at `source`; no SigLIP or InternViT; another architecture than `expected`; missing,
            surplus or misshapen weights.
    """
    folder = resolve_folder(source)
    config, kept_as = read_tower_config(folder, source)
    check_architecture(config, expected or {}, source)
    config._attn_implementation = attn_implementation
    mean, std = _normalization(folder)
    encoder = FAMILIES[config.model_type](config, mean, std)
    weights, unused = _read_weights(folder, source, set(encoder.model.state_dict()), kept_as)
    _load_strictly(encoder, weights, source)
    if unused:
        groups = Counter(key.split(".")[0] for key in unused)
        listed = ", ".join(f"{name} ({count})" for name, count in groups.most_common(5))
        log.warning(
            "%s: %d tensors are not part of the vision tower and were not read: %s",
            source,
            len(unused),
            listed,
        )
    return encoder


def build_encoder(architecture: dict[str, Any], attn_implementation: str = "sdpa") -> VisionEncoder:
    """A tower with random weights from config fields, `model_type` among them: for tests and miniatures."""
    config = _tower_config(dict(architecture), "encoder.architecture")
    config._attn_implementation = attn_implementation
    return FAMILIES[config.model_type](config)


def resolve_folder(source: str) -> Path:
    """`source` itself if it is a folder, else the hub's snapshot of it."""
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise UserError(f"{source}: no such folder, and no hub id either (expected owner/name)")
    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.bin"]))
    except (
        OSError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    ) as error:
        raise UserError(
            f"{source}: no such folder, and the hub could not give it ({type(error).__name__}); "
            "download it first, or give a local folder"
        ) from error


def read_tower_config(folder: Path, source: str) -> tuple[PreTrainedConfig, str]:
    """The tower's config, and the model type that the checkpoint itself states."""
    path = folder / "config.json"
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{source}: no config.json: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: no valid JSON: {one_line(error)}") from error
    kind = str(stated.get("model_type"))
    tower = stated.get("vision_config", stated)
    if kind in ORIGINAL_TYPES:
        return _tower_config(convert_config(tower), str(path)), kind
    if kind in ("siglip", "internvl"):
        tower = {
            "model_type": {"siglip": "siglip_vision_model", "internvl": "internvl_vision"}[kind],
            **tower,
        }
    return _tower_config(dict(tower), str(path)), kind


def check_architecture(config: PreTrainedConfig, expected: dict[str, Any], source: str) -> None:
    """Raises `UserError` where a recipe's stated architecture differs from the checkpoint's."""
    for field, value in expected.items():
        found = getattr(config, field, None)
        found = found[0] if isinstance(found, (list, tuple)) else found
        if found != value:
            raise UserError(
                f"{source}: config.json: {field}: the recipe states {value!r}, the checkpoint has {found!r}"
            )


def _tower_config(fields: dict[str, Any], where: str) -> PreTrainedConfig:
    kind = str(fields.pop("model_type", None))
    if kind not in CONFIGS:
        known = ", ".join([*CONFIGS, "siglip", "internvl", *ORIGINAL_TYPES])
        raise UserError(f"{where}: model_type: expected one of {known}; found {kind!r}")
    try:
        return CONFIGS[kind](**fields)
    except Exception as error:  # transformers' strict configs raise their own kinds
        raise UserError(f"{where}: {one_line(error)}") from error


def _normalization(folder: Path) -> tuple[Any, Any]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None, None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: no valid JSON: {one_line(error)}") from error
    return stated.get("image_mean"), stated.get("image_std")


def _read_weights(
    folder: Path, source: str, wanted: set[str], kind: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tower's tensors under the tower's own names, and the names of all others."""
    weights: dict[str, Tensor] = {}
    unused: list[str] = []
    for path in _weight_files(folder, source):
        for key, read in _tensors(path):
            name = next(key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix))
            if kind in ORIGINAL_TYPES:
                weights.update(
                    convert_weights(name, read) if name.startswith(("embeddings", "encoder")) else {}
                )
            elif name in wanted:
                weights[name] = read()
            else:
                unused.append(key)
    return weights, unused


def _weight_files(folder: Path, source: str) -> list[Path]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{source}: no weights there (*.safetensors or pytorch_model*.bin)")
    return files


def _tensors(path: Path) -> list[tuple[str, Callable[[], Tensor]]]:
    """Names and readers, so that the language model of a full checkpoint is never brought into memory."""
    try:
        if path.suffix == ".safetensors":
            handle = safe_open(path, framework="pt")
            return [(key, partial(handle.get_tensor, key)) for key in handle.keys()]  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return [(key, partial(state.__getitem__, key)) for key in state]
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as weights: {one_line(error)}") from error


def _load_strictly(encoder: VisionEncoder, weights: dict[str, Tensor], source: str) -> None:
    wanted = encoder.model.state_dict()
    missing = sorted(set(wanted) - set(weights))
    if missing:
        raise UserError(
            f"{source}: {len(missing)} weights of the vision tower are missing, the first is {missing[0]}"
        )
    for name, tensor in weights.items():
        if name not in wanted:
            raise UserError(f"{source}: {name}: not part of this architecture")
        expected, found = tuple(wanted[name].shape), tuple(tensor.shape)
        if found != expected:
            raise UserError(f"{source}: {name}: expected shape {expected} by config.json, found {found}")
    encoder.model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
