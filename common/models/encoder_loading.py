"""Pretrained vision towers from a hub id or a local folder.

One path for every kind of checkpoint: a plain tower, the vision part of a full SigLIP or InternVL model, or the
original InternViT with its own key names. What is left unread is reported, what is missing is an error.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from common.errors import UserError, refusing
from common.models.internvit_keys import ORIGINAL_TYPES, convert_config, convert_weights
from common.models.strict_loading import check_architecture
from common.models.vision_encoder import CONFIGS, FAMILIES, VisionEncoder
from common.models.weight_files import read_config_json, resolve_folder, stored_tensors

log = logging.getLogger(__name__)

# Where a tower may stand inside a checkpoint; the longest that fits a key wins.
PREFIXES = (
    "model.vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.vision_model.",
    "vision_tower.",
    "vision_model.",
    "",
)


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
    config, kept_as = read_tower_config(folder)
    check_architecture(config, expected or {}, source)
    config._attn_implementation = attn_implementation
    mean, std = read_normalization(folder)
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


def read_tower_config(folder: Path) -> tuple[PreTrainedConfig, str]:
    """The tower's config, and the model type that the checkpoint itself states."""
    path = folder / "config.json"
    stated = read_config_json(folder)
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


def _tower_config(fields: dict[str, Any], where: str) -> PreTrainedConfig:
    kind = str(fields.pop("model_type", None))
    if kind not in CONFIGS:
        known = ", ".join([*CONFIGS, "siglip", "internvl", *ORIGINAL_TYPES])
        raise UserError(f"{where}: model_type: expected one of {known}; found {kind!r}")
    with refusing(where):
        return CONFIGS[kind](**fields)


def read_normalization(folder: Path) -> tuple[Any, Any]:
    """Mean and standard deviation that the checkpoint's image processor states, or None.

    Raises:
        UserError: its file is no JSON object.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):  # alone, or as part of a processor
        stated = read_config_json(folder, name) if (folder / name).is_file() else {}
        stated = stated.get("image_processor", stated)
        if "image_mean" in stated:
            return stated["image_mean"], stated.get("image_std")
    return None, None


def _read_weights(
    folder: Path, source: str, wanted: set[str], kind: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tower's tensors under the tower's own names, and the names of all others."""
    weights: dict[str, Tensor] = {}
    unused: list[str] = []
    for stored in stored_tensors(folder, source):
        name = next(stored.key.removeprefix(prefix) for prefix in PREFIXES if stored.key.startswith(prefix))
        if kind in ORIGINAL_TYPES:
            if name.startswith(("embeddings", "encoder")):
                weights.update(convert_weights(name, stored.read))
        elif name in wanted:
            weights[name] = stored.read()
        else:
            unused.append(stored.key)
    return weights, unused


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
