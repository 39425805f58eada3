"""What the demo states of its post-training: both judges' figures of the same pictures, before and after."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from evals.detectors.detection import Detection
from evals.detectors.world import WorldDetector
from evals.geneval.rules import TAGS
from scripts.demo import post_training_report
from scripts.demo.captions import colors, counting
from scripts.demo.scenes import Scene, Thing, make_scene, render
from scripts.demo.verdicts import Judged


def drawn(path: Path, color: str) -> Path:
    thing = Thing(shape="circle", color=color, left=9, top=9, size=12)
    scene = Scene(size=32, kind="single", background=make_scene(0, seed=0).background, things=(thing,))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(scene)).save(path)
    return path


def test_a_second_opinion_counts_by_tag_and_against_the_first(tmp_path: Path) -> None:
    red, blue = (drawn(tmp_path / f"{color}.png", color) for color in ("red", "blue"))
    pictures = [
        Judged(red, colors("circle", "red"), True),
        Judged(blue, colors("circle", "red"), True),  # the first was wrong there
        Judged(red, counting("circle", 2), False),
    ]
    said = post_training_report.second_opinion(WorldDetector(), pictures)
    assert said == {"overall": 0.25, "counting": 0.0, "colors": 0.5, "agreement": pytest.approx(2 / 3)}


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One prompt of each tag, a picture of each; before, the rules accept none, and after, all."""
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "judge.json").write_text(json.dumps({"accuracy": {"overall": 0.97}}))
    for number, folder in enumerate(post_training_report.ARMS.values()):
        after = "post_trained" in folder
        picture = drawn(tmp_path / folder / "pictures" / "00000" / "samples" / "0000.png", "red")
        lines = [
            {
                "filename": str(picture),
                "correct": after,
                "metadata": json.dumps(colors("circle", "red") | {"tag": tag}),
            }
            for tag in TAGS
        ]
        path = tmp_path / folder / "verdicts.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        scores = {"overall": number / 10, **dict.fromkeys(TAGS, number / 10)}
        (tmp_path / folder / "results.json").write_text(json.dumps({"scores": scores}))
    (tmp_path / "post_training").mkdir()
    lines = [
        {"kind": "evaluation", "step": 0, "judge": 0.5},
        *({"kind": "train", "step": n, "reward": n / 10, "diversity": 1 / n} for n in (1, 2, 4)),
    ]
    metrics = tmp_path / "post_training" / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))

    class Never:
        """Nothing is ever there."""

        @classmethod
        def from_folder(cls, folder: Path) -> Never:
            assert folder == tmp_path / "judge"
            return cls()

        def detect(self, picture: Image.Image) -> list[Detection]:
            assert np.asarray(picture).shape == (32, 32, 3)
            return []

    monkeypatch.setattr(post_training_report, "CentersDetector", Never)
    monkeypatch.setattr(sys, "argv", ["post_training_report.py", "--demo", str(tmp_path)])
    return tmp_path


def test_the_section_has_both_judges_before_and_after(demo: Path) -> None:
    post_training_report.main()
    section = json.loads((demo / "summary.json").read_text())["post_training"]
    assert section["training"] == {
        "steps": 4,
        "reward_first": 0.1,
        "reward_last": 0.4,
        "diversity_first": 1.0,
        "diversity_last": 0.25,
    }
    for number, arm in enumerate(post_training_report.ARMS):
        assert section[f"geneval_{arm}"]["overall"] == number / 10
        # The second judge saw nothing: it agrees where the first accepted nothing either.
        assert section[f"held_out_judge_{arm}"]["overall"] == 0
        assert section[f"held_out_judge_{arm}"]["agreement"] == (0 if "after" in arm else 1)
    assert section["held_out_judge_on_true_scenes"] == {"overall": 0.97}


def test_what_is_absent_is_named(demo: Path) -> None:
    (demo / "post_training" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl: no lines of a post-training"):
        post_training_report.main()
