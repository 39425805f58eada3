"""From Mask2Former's raw logits to instances, as mmdetection does it, whose detections GenEval was made with.

What is notable here: transformers' own `post_process_instance_segmentation` cannot be used. It scores masks at 384 x
384 px, drops what scores under 0.5, and lets one instance overwrite another. Source of the rule: mmdetection 2.x,
`MaskFormerFusionHead.instance_postprocess` and `mask2bbox`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Size = tuple[int, int]

MAX_INSTANCES = 100


@dataclass(frozen=True)
class Instances:
    """N instances, best class first: labels (N,) int64, scores (N,), boxes (N, 4) in px, masks (N, H, W) bool."""

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


def mask_logits_at(logits: Tensor, padded: Size, resized: Size, original: Size) -> Tensor:
    """Mask logits at the picture's own size, as it was before it was resized and padded.

    Args:
        logits: (N, h, w), as the model gives them.
        padded: (height, width) of what the model saw.
        resized: of the picture within it, at the top left.
        original: of the picture as it came.

    Returns:
        (N, *original). Resized bilinearly twice, since padding is cut off in between.
    """

    def to(size: Size, values: Tensor) -> Tensor:
        return interpolate(values[None], size, mode="bilinear", align_corners=False)[0]

    return to(original, to(padded, logits)[:, : resized[0], : resized[1]])


def instances(class_logits: Tensor, mask_logits: Tensor, most: int = MAX_INSTANCES) -> Instances:
    """The best (query, class) pairs: one query may be several instances, of one mask and different classes.

    Args:
        class_logits: (Q, C + 1); the last class is "no object", and is left out after the softmax.
        mask_logits: (Q, H, W) at the picture's size (see `mask_logits_at`).
        most: pairs that are kept, by their class probability alone.

    Returns:
        A score is the class probability times the mean sigmoid over the mask, which is where the logit is over 0. Boxes
        are tight, far edges exclusive; an empty mask has an empty box at the origin and scores 0.
    """
    classes = class_logits.shape[1] - 1
    probabilities = class_logits.softmax(-1)[:, :-1].flatten()
    best, pairs = probabilities.topk(min(most, len(probabilities)))
    logits = mask_logits[pairs // classes]
    masks = logits > 0
    inside = masks.flatten(1).sum(1)
    sums = (logits.sigmoid() * masks).flatten(1).sum(1)
    return Instances(pairs % classes, best * sums / (inside + 1e-6), tight_boxes(masks), masks)


def tight_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) float: x0, y0, x1, y1, far edges exclusive; zeros for an empty mask."""
    boxes = masks.new_zeros((len(masks), 4), dtype=torch.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = mask.any(0).nonzero(), mask.any(1).nonzero()
        if len(columns):
            for place, edge in enumerate((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)):
                box[place] = edge.item()
    return boxes
