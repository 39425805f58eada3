"""Detectors by the names that a command line gives them: what they need, and opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from evals.detectors import original
from evals.preflight import Need, file, hub_files

if TYPE_CHECKING:
    import torch

    from evals.detectors.detection import Detector

ORIGINAL, WORLD = "mask2former", "world"
CENTERS = "world_centers"  # the `model_type` of folders of `centers.py`
CLIP = "openai/clip-vit-large-patch14"
"""Names colours, as in GenEval's own code."""
OPTIONS = ("--detector", "--clip")


def detector_needs(name: str, clip: str, options: tuple[str, str] = OPTIONS) -> list[Need]:
    """For preflight.

    Args:
        name: `mask2former`, the original's; `world`; a folder of `centers.py`'s; or a checkpoint of mmdetection's, a
            folder or a hub id.
        clip: folder or hub id of what names colours.
        options: what the two are called where they are given.
    """
    if name == WORLD or _is_centers(name):
        return []
    model = ("config.json", "model.safetensors")
    words = (*model, "preprocessor_config.json", "tokenizer.json")
    colors = hub_files(clip, words, "the weights that name colours", options[1])
    if name == ORIGINAL:
        return [original.need(options[0]), colors]
    if name.endswith(".pth"):
        return [file(name, "the detector's weights", f"set {options[0]} to mmdetection's checkpoint"), colors]
    return [hub_files(name, model, "the detector's weights", options[0]), colors]


def open_detector(name: str, clip: str, device: torch.device | str) -> Detector:
    """A detector that can look at pictures; arguments as of `detector_needs`.

    Raises:
        UserError: it cannot be had, is damaged, or is none.
    """
    if name == WORLD:
        from evals.detectors.world import WorldDetector

        return WorldDetector()
    if _is_centers(name):
        from evals.detectors.centers import CentersDetector

        return CentersDetector.from_folder(Path(name), device)
    from evals.detectors.mask2former import Mask2FormerDetector

    if name == ORIGINAL:
        return Mask2FormerDetector.from_pretrained(str(original.folder()), clip, device, original.URL)
    folder = str(original.converted(Path(name))) if name.endswith(".pth") else name
    return Mask2FormerDetector.from_pretrained(folder, clip, device, name)


def _is_centers(name: str) -> bool:
    """Whether it is a folder that says so in its config.json; its own loader says what else is amiss in it."""
    path = Path(name) / "config.json"
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stated, dict) and stated.get("model_type") == CENTERS
