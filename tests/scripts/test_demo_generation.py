"""The demo's pictures for GenEval's rules, and what is read back from the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from common.errors import UserError
from evals.detectors.world import WorldDetector
from evals.geneval.prompts import described_prompts, find_pictures
from evals.geneval.rules import TAGS, judge
from scripts.demo import generation_report, true_scenes


def test_true_scenes_are_right_where_nothing_is_lost(
    world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "world").symlink_to(world_folder)
    model = SimpleNamespace(eval=lambda: None)
    monkeypatch.setattr(true_scenes, "load_vqrae", lambda source: (model, source))
    monkeypatch.setattr(true_scenes, "reconstruct", lambda _, pixels: (pixels, None))
    monkeypatch.setattr(sys, "argv", ["true_scenes.py", "--demo", str(tmp_path)])
    true_scenes.main()
    folder = tmp_path / "reconstructed_scenes"
    pictures = find_pictures(folder, described_prompts(folder), 1)
    assert len(pictures) > 20  # a scene of two objects has several true prompts
    detector = WorldDetector()
    for picture in pictures:
        verdict = judge(picture.prompt.metadata, detector.detect(Image.open(picture.path)))
        assert verdict.correct, (picture.prompt.text, verdict.reasons)


def test_the_report_reads_overall_and_every_tag(tmp_path: Path) -> None:
    scores = {tag: number / 10 for number, tag in enumerate(TAGS)} | {"overall": 0.25, "overall_low": 0.1}
    (tmp_path / "results.json").write_text(json.dumps({"scores": scores}))
    assert generation_report.geneval(tmp_path) == {name: scores[name] for name in ("overall", *TAGS)}


def test_the_report_names_absent_results(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: expected the results of an evaluation"):
        generation_report.geneval(tmp_path)


def test_the_sheet_has_prompts_of_every_tag(tmp_path: Path) -> None:
    wish = [{"class": "circle", "count": 1}]
    for number, tag in enumerate(tag for tag in TAGS for _ in range(5)):
        samples = tmp_path / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        prompt = {"tag": tag, "include": wish, "prompt": f"a photo of {tag}"}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(prompt))
        Image.new("RGB", (32, 32)).save(samples / "0000.png")
    rows = len(TAGS) * generation_report.SHOWN_PROMPTS
    assert generation_report.sheet(tmp_path).height % rows == 0
