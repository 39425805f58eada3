"""GenEval's detector without mmdetection: transformers' Mask2Former, and CLIP for colours; on a GPU or a CPU.

Pictures are prepared as mmdetection's test pipeline does: into 1333 x 800 px with their ratio kept, ImageNet's mean and
deviation, padded to multiples of 32 px.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from common.errors import UserError, refusing
from common.models.strict_loading import load_strictly
from common.models.weight_files import resolve_folder, weights_sha256
from evals.detectors.clip_colors import COLORS, ColorNamer
from evals.detectors.coco_classes import CLASSES
from evals.detectors.detection import Detection
from evals.detectors.mask2former_instances import Size, instances, mask_logits_at

LONG, SHORT, DIVISOR = 1333, 800, 32  # px
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# mmdetection names its files by the first eight digits of their SHA-256: the original's detector, as published for its
# versions 2 and 3.
ORIGINAL_CHECKPOINTS = ("743b7d99", "c9d0c4f2")


class Mask2FormerDetector:
    """See `detection.Detector`."""

    classes, colors = CLASSES, COLORS

    def __init__(self, model: Any, color: ColorNamer, identity: dict[str, Any]) -> None:
        self._model, self._color, self.identity = model.eval().float(), color, identity

    @classmethod
    def from_pretrained(cls, detector: str, clip: str, device: torch.device | str) -> Mask2FormerDetector:
        """Both networks, each a local folder or a hub id.

        Raises:
            UserError: one of them is absent, of another kind, damaged, or the detector has other classes than COCO's.
        """
        from transformers import (
            CLIPImageProcessorPil,
            CLIPModel,
            CLIPTokenizer,
            Mask2FormerForUniversalSegmentation,
        )

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
            "source": detector,
            "weights_sha256": weights_sha256(folder),
            "mmdet_sha256": converted,
            "original_weights": bool(converted) and str(converted).startswith(ORIGINAL_CHECKPOINTS),
            "clip": clip,
            "clip_sha256": weights_sha256(clip_folder),
        }
        with refusing(f"{clip_folder}: no CLIP processor"):
            # Of Pillow, which the original resizes with too; the library's default resizes tensors.
            processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
            text_tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
        clip_model = load_strictly(CLIPModel, clip_folder, "a CLIP model", surplus=True)
        return cls(model.to(device), ColorNamer(clip_model.to(device), processor, text_tokenizer), identity)

    def detect(self, picture: Image.Image) -> list[Detection]:
        """All instances in an RGB picture; their colours are found when they are asked for."""
        original = (picture.height, picture.width)
        pixels, resized = prepared(picture)
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


def prepared(picture: Image.Image) -> tuple[Tensor, Size]:
    """An RGB picture as the detector sees it, (3, H, W) float32; and (height, width) of the picture within it."""
    width, height = picture.size
    scale = min(LONG / max(width, height), SHORT / min(width, height))
    resized = (int(height * scale + 0.5), int(width * scale + 0.5))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float()
    # No antialias, and rounded: what OpenCV's bilinear resizing of 8-bit pictures gives, up to one level.
    pixels = interpolate(pixels, resized, mode="bilinear", align_corners=False).round()[0]
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    bottom, right = (-side % DIVISOR for side in resized)
    return pad(pixels, (0, right, 0, bottom)), resized
