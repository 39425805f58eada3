"""GenEval's detector without mmdetection: transformers' Mask2Former, and CLIP for colours; on a GPU or a CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.errors import UserError, refusing
from common.models.strict_loading import load_strictly
from common.models.weight_files import resolve_folder, weights_sha256
from evals.detectors.clip_colors import COLORS, ColorNamer
from evals.detectors.coco_classes import CLASSES
from evals.detectors.detection import Detection
from evals.detectors.mask2former_instances import instances, mask_logits_at
from evals.detectors.mask2former_pixels import Prepare, as_mmdetection, as_transformers
from evals.detectors.original import CHECKPOINTS


class Mask2FormerDetector:
    """See `detection.Detector`."""

    classes, colors = CLASSES, COLORS

    def __init__(self, model: Any, prepare: Prepare, color: ColorNamer, identity: dict[str, Any]) -> None:
        self._model, self._prepare = model.eval().float(), prepare
        self._color, self.identity = color, identity

    @classmethod
    def from_pretrained(
        cls, detector: str, clip: str, device: torch.device | str, source: str | None = None
    ) -> Mask2FormerDetector:
        """Both networks, each a local folder or a hub id; CLIP has named a colour when this returns.

        Args:
            source: the detector's name for the record; None: `detector`.

        Raises:
            UserError: one of them is absent, of another kind, damaged, or the detector has other classes than COCO's.
        """
        from transformers import Mask2FormerForUniversalSegmentation

        torch.backends.cudnn.allow_tf32 = False  # scores are held against thresholds
        folder, clip_folder = resolve_folder(detector), resolve_folder(clip)
        model = load_strictly(Mask2FormerForUniversalSegmentation, folder, "a Mask2Former", surplus=True)
        if model.config.num_labels != len(CLASSES):
            raise UserError(
                f"{folder / 'config.json'}: expected a detector of COCO's {len(CLASSES)} classes, found "
                f"{model.config.num_labels}"
            )
        converted = getattr(model.config, "mmdet_sha256", None)
        identity = {
            "name": "mask2former",
            "source": source or detector,
            "weights_sha256": weights_sha256(folder),
            "mmdet_sha256": converted,
            "original_weights": bool(converted) and str(converted).startswith(CHECKPOINTS),
            "prepared_as": "mmdetection" if converted else "transformers",
            "clip": clip,
            "clip_sha256": weights_sha256(clip_folder),
            "clip_precision": "float16" if torch.device(device).type == "cuda" else "float32",
        }
        prepare = as_mmdetection if converted else as_transformers(folder)
        color = ColorNamer.from_folder(clip_folder, device)
        with refusing(f"{clip_folder}: CLIP cannot name a colour"):
            color(Image.new("RGB", (64, 48)), np.ones((48, 64), bool), (0, 0, 64, 48), CLASSES[0])
        return cls(model.to(device), prepare, color, identity)

    def detect(self, picture: Image.Image) -> list[Detection]:
        """All instances in an RGB picture; their colours are found when they are asked for."""
        original = (picture.height, picture.width)
        pixels, resized = self._prepare(picture)
        with torch.inference_mode():
            output = self._model(pixel_values=pixels[None].to(self._model.device))
            padded = (pixels.shape[1], pixels.shape[2])
            logits = mask_logits_at(output.masks_queries_logits[0].float(), padded, resized, original)
            found = instances(output.class_queries_logits[0].float(), logits)
        detections = []
        for label, score, box, mask in zip(
            found.labels.tolist(),
            found.scores.cpu().numpy(),
            found.boxes.tolist(),
            found.masks.cpu().numpy(),
            strict=True,
        ):
            name, place = CLASSES[label], (box[0], box[1], box[2], box[3])
            color = partial(self._color, picture, mask, place, name)
            detections.append(Detection(name=name, score=score, box=place, color=color, mask=mask))
        return detections
