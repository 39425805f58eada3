"""Mask2Former without mmdetection: preparation, converted weights, colours, the whole detector."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_detector
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
)
from transformers.models.swin.modeling_swin import SwinPatchMerging

from common.errors import UserError
from evals.detectors import mask2former_pixels, mmdet_keys
from evals.detectors.clip_colors import (
    COLORS,
    TEMPLATES,
    ColorNamer,
    object_crop,
    prepared_as_open_clip,
)
from evals.detectors.coco_classes import CLASSES
from evals.detectors.mask2former import Mask2FormerDetector
from evals.detectors.mask2former_pixels import DEVIATION, MEAN, as_transformers
from evals.geneval import run as geneval

# ---- preparation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((32, 32), (800, 800), (800, 800)),
        ((640, 427), (800, 1199), (800, 1216)),
        ((100, 400), (1333, 333), (1344, 352)),
    ],
)
def test_sizes_are_mmdetections(size: Any, resized: Any, padded: Any) -> None:
    pixels, inside = mask2former_pixels.as_mmdetection(Image.new("RGB", size, (255, 0, 0)))
    assert inside == resized and tuple(pixels.shape[1:]) == padded
    assert pixels[0, 0, 0] == pytest.approx((255 - MEAN[0]) / DEVIATION[0])
    # mmdetection 2.28.2: Pad(size_divisor=32, pad_val=128) stands before Normalize.
    levels = pixels * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    for padding in (levels[:, inside[0] :], levels[:, :, inside[1] :]):
        torch.testing.assert_close(padding, torch.full_like(padding, 128.0))


@pytest.mark.parametrize("size", [(512, 512), (640, 427), (100, 400)])
def test_other_weights_get_what_their_library_prepares(size: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture, processor = Image.fromarray(pixels), Mask2FormerImageProcessorPil(size_divisor=64)
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    processor.save_pretrained(tmp_path)
    ours, inside = as_transformers(tmp_path)(picture)
    assert torch.equal(ours, expected) and inside == tuple(expected.shape[1:])  # stretched, and not padded
    assert inside[0] % 64 == 0 == inside[1] % 64


# ---- weights of the original -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_detector.network()


@pytest.mark.parametrize("generation", [2, 3])
def test_converted_weights_see_what_the_original_saw(network: Any, generation: int, tmp_path: Path) -> None:
    theirs = tiny_detector.as_mmdetection(network.state_dict(), generation)
    torch.save({"meta": {"epoch": 50}, "state_dict": theirs}, tmp_path / "original.pth")
    mmdet_keys.save_converted(tmp_path / "original.pth", tmp_path / "ours", network.config)
    usual, weights = tmp_path / "original.pth", tmp_path / "ours" / "model.safetensors"
    assert weights.stat().st_mode == usual.stat().st_mode  # as any file: safetensors makes its own private
    ours = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "ours").eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        first, second = network(pixels), ours(pixels)
    assert torch.equal(first.class_queries_logits, second.class_queries_logits)
    assert torch.equal(first.masks_queries_logits, second.masks_queries_logits)
    assert re.fullmatch(r"[0-9a-f]{64}", ours.config.mmdet_sha256)


def test_merged_patches_stand_in_the_order_of_unfold() -> None:
    """mmdetection merges with `nn.Unfold`, written out here; transformers by slices."""
    ours = SwinPatchMerging(dim=3)
    theirs = nn.Linear(12, 6, bias=False)
    norm = nn.LayerNorm(12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    ours.reduction.weight.data = mmdet_keys.by_neighbour(theirs.weight.data)
    ours.norm.weight.data, ours.norm.bias.data = (
        mmdet_keys.by_neighbour(part.data) for part in (norm.weight, norm.bias)
    )
    picture = torch.randn(1, 3, 6, 8)
    unfolded = nn.Unfold(2, stride=2)(picture).transpose(1, 2)
    merged = ours(picture.flatten(2).transpose(1, 2), (6, 8))
    torch.testing.assert_close(merged, theirs(norm(unfolded)))


def test_another_checkpoint_is_refused(network: Any, tmp_path: Path) -> None:
    theirs = tiny_detector.as_mmdetection(network.state_dict(), 2)
    path = tmp_path / "original.pth"
    for change, reason in (
        ({"roi_head.weight": torch.zeros(1)}, "roi_head.weight: no weight of mmdetection's Mask2Former"),
        ({"panoptic_head.cls_embed.bias": torch.zeros(3)}, "not the detector's architecture"),
        ({"panoptic_head.cls_embed.bias": None}, "class_predictor.bias: missing or unknown"),
    ):
        changed = {key: value for key, value in {**theirs, **change}.items() if value is not None}
        torch.save({"state_dict": changed}, path)
        with pytest.raises(UserError, match=f"original.pth: .*{reason}"):
            mmdet_keys.save_converted(path, tmp_path / "ours", network.config)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"original.pth: cannot be read as weights"):
        mmdet_keys.save_converted(path, tmp_path / "ours")


# ---- colours ---------------------------------------------------------------------------------------------


def test_crops_are_prepared_as_open_clip_does() -> None:
    """Shorter edge to 224 px by Pillow's bicubic, centre crop rounding halves to even: written out here."""
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    prepare = prepared_as_open_clip(224, mean, deviation)
    for longer in (224, 225, 226, 227, 229, 231, 336, 999, 1000):
        pixels = np.random.default_rng(0).integers(0, 256, (224, longer, 3), dtype=np.uint8)
        left = round((longer - 224) / 2)  # Python's rounding
        for turned in (False, True):
            picture = Image.fromarray(pixels.swapaxes(0, 1) if turned else pixels)
            cut = pixels[:, left : left + 224] / 255
            cut = cut.swapaxes(0, 1) if turned else cut
            expected = ((cut - mean) / deviation).transpose(2, 0, 1)
            np.testing.assert_allclose(prepare(picture).numpy(), expected, atol=1e-5)
    small = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(small).resize((336, 224), Image.Resampling.BICUBIC))[:, 56:280] / 255
    ours = prepare(Image.fromarray(small)).numpy()
    np.testing.assert_allclose(ours, ((resized - mean) / deviation).transpose(2, 0, 1), atol=1e-5)


def test_the_object_stands_alone_on_grey() -> None:
    picture = Image.new("RGB", (10, 8), (200, 0, 0))
    mask = np.zeros((8, 10), bool)
    mask[2:5, 3:7] = True
    mask[2, 3] = False
    crop = np.asarray(object_crop(picture, mask, (3.0, 2.0, 7.0, 5.0)))
    assert crop.shape == (3, 4, 3)
    assert crop[0, 0].tolist() == [0x99] * 3 and (crop.reshape(-1, 3)[1:] == [200, 0, 0]).all()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector.write_clip(tmp_path_factory.mktemp("clip"))


def test_the_colour_is_the_nearest_mean_phrase(clip_folder: Path) -> None:
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor, tokenizer = (
        CLIPImageProcessorPil.from_pretrained(clip_folder),
        CLIPTokenizer.from_pretrained(clip_folder),
    )
    namer = ColorNamer.from_folder(clip_folder, "cpu")
    rng = np.random.default_rng(0)
    mask = np.ones((20, 30), bool)
    seen = set()
    for _ in range(12):
        picture = Image.new("RGB", (30, 20), tuple(rng.integers(0, 256, 3).tolist()))
        with torch.no_grad():
            image = (
                model.get_image_features(**processor(picture, return_tensors="pt")).pooler_output[0].double()
            )
            likeness = []
            for color in COLORS:
                phrases = []
                for template in TEMPLATES:  # one at a time: no padding
                    tokens = tokenizer(template.format(c=color, name="dog"), return_tensors="pt")
                    feature = model.get_text_features(**tokens).pooler_output[0].double()
                    phrases.append(feature / feature.norm())
                mean = torch.stack(phrases).mean(0)
                likeness.append(float(mean @ image / mean.norm()))
        named = namer(picture, mask, (0, 0, 30, 20), "dog")
        assert named == COLORS[int(np.argmax(likeness))]
        seen.add(named)
    assert len(seen) > 1  # else any namer of one colour would do


# ---- the whole -------------------------------------------------------------------------------------------


def test_the_command_runs_on_saved_weights(network: Any, clip_folder: Path, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "detector")
    Mask2FormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(
        tmp_path / "detector"
    )
    samples = tmp_path / "pictures" / "00000" / "samples"
    samples.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(samples / "0000.png")
    detector = Mask2FormerDetector.from_pretrained(str(tmp_path / "detector"), str(clip_folder), "cpu")
    found = detector.detect(Image.fromarray(pixels))
    assert len(found) == 100 and {one.name for one in found} <= set(CLASSES)
    assert all(isinstance(one.score, np.float32) and one.mask.shape == (40, 52) for one in found)
    assert not detector.identity["original_weights"]
    metadata = {
        "tag": "colors",
        "include": [{"class": "dog", "count": 1, "color": "red"}],
        "prompt": "a photo of a red dog",
    }
    (tmp_path / "pictures" / "00000" / "metadata.jsonl").write_text(json.dumps(metadata))
    paths = ["--detector", str(tmp_path / "detector"), "--clip", str(clip_folder)]
    options = ["--pictures", str(tmp_path / "pictures"), "--output", str(tmp_path / "out"), "-n", "1"]
    geneval.main([*options, *paths, "--device", "cpu"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"] == "other prompts, 1 pictures a prompt, detector mask2former"
    assert results["scores"] == {"overall": 0.0, "colors": 0.0}
    record = json.loads((tmp_path / "out" / "detections" / "00000" / "0000.json").read_text())
    assert record["size"] == [52, 40] and len(record["detections"]) == 100


def test_classes_are_genevals(photographs: Path) -> None:
    path = photographs / "geneval" / "object_names.txt"
    if not path.is_file():
        pytest.skip("GenEval's class names are not among the test data")
    assert tuple(path.read_text().split("\n")[:80]) == CLASSES
