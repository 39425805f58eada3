"""Mask2Former's raw outputs to instances, against a plain statement of mmdetection's rule in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evals.detectors.mask2former_instances import instances, mask_logits_at, tight_boxes


def bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) float64 -> `size`: pixel centres keep their place, edges repeat."""
    for axis, length in enumerate(size):
        before = values.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * before / length - 0.5, 0, before - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, before - 1)
        share = np.expand_dims(at - low, 1 - axis)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def stated(
    class_logits: np.ndarray, mask_logits: np.ndarray, sizes: tuple[tuple[int, int], ...], most: int
) -> list[tuple[int, float, list[float], np.ndarray]]:
    """The rule in float64, pair by pair: label, score, box, mask; best class first."""
    padded, resized, original = sizes
    exponents = np.exp(class_logits - class_logits.max(1, keepdims=True))
    probabilities = (exponents / exponents.sum(1, keepdims=True))[:, :-1]
    pairs = [(p, query, label) for query, row in enumerate(probabilities) for label, p in enumerate(row)]
    found = []
    for probability, query, label in sorted(pairs, reverse=True)[:most]:
        logits = bilinear(bilinear(mask_logits[query], padded)[: resized[0], : resized[1]], original)
        mask = logits > 0
        score, box = 0.0, [0.0] * 4
        if mask.any():
            score = probability * np.mean(1 / (1 + np.exp(-logits[mask])))
            rows, columns = np.where(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found.append((label, score, [float(edge) for edge in box], mask))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_post_processing_is_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = ((64, 96), (60, 91), (45, 70))
    class_logits, mask_logits = rng.normal(0, 3, (12, 9)), rng.normal(-0.5, 4, (12, 16, 24))
    mask_logits[3] = -1.0  # nothing of it is mask
    class_logits[3, 2] = 12  # and yet its class is sure
    ours = instances(
        torch.tensor(class_logits).float(), mask_logits_at(torch.tensor(mask_logits).float(), *sizes), 40
    )
    rule = stated(class_logits, mask_logits, sizes, 40)
    assert ours.labels.tolist() == [label for label, *_ in rule]
    assert ours.scores.tolist() == pytest.approx([score for _, score, *_ in rule], abs=1e-5)
    assert ours.boxes.tolist() == [box for *_, box, _ in rule]
    assert (ours.masks.numpy() == np.stack([mask for *_, mask in rule])).mean() > 0.9999
    assert [0.0] * 4 in ours.boxes.tolist()


def test_one_query_may_be_two_instances_and_no_object_none() -> None:
    class_logits = torch.tensor([[5.0, 4.9, -9.0, 0.0], [0.0, 0.0, 0.0, 30.0]])
    found = instances(class_logits, torch.ones(2, 3, 3), most=3)
    assert found.labels.tolist()[:2] == [0, 1] and torch.equal(found.masks[0], found.masks[1])
    assert found.scores[2] < 1e-6


def test_boxes_end_behind_the_last_pixel() -> None:
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = masks[0, 3, 6] = True
    assert tight_boxes(masks).tolist() == [[2, 1, 7, 4], [0, 0, 0, 0]]
