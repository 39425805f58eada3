"""The figures of `benchmarks/better_pictures.py`: from verdicts to a table, and what may be claimed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks.better_pictures import RECIPE, check_held_out, post_train, seconds
from benchmarks.picture_scores import of_prompt
from benchmarks.picture_tables import claims, markdown
from common.config import load_config
from common.errors import UserError
from evals.detectors.detection import Detection
from evals.geneval.rules import TAGS
from post_training.config import PostTrainingConfig

CIRCLE = {
    "tag": "single_object",
    "include": [{"class": "circle", "count": 1}],
    "prompt": "a photo of a circle",
}


class Listed:
    """Finds a circle of these scores in the pictures, one after the other."""

    classes = ("circle", "square")

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)

    def detect(self, picture: Image.Image) -> list[Detection]:
        return [Detection(name="circle", score=next(self.scores), box=(0, 0, 9, 9))]


def test_the_best_of_four_is_judged_by_the_exact_detector() -> None:
    pictures = [Image.new("RGB", (32, 32))] * 8
    exact = Listed([0.0, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0])
    judge = Listed([0.9, 0.0, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0])
    found = of_prompt(CIRCLE, pictures, (exact, judge))  # type: ignore[arg-type]
    assert found["exact"] == 0.25 and found["judge"] == 3 / 8
    # Each four has a right one; the judge prefers its own first in both, which are wrong.
    assert found["best_of_4_exact"] == 1 and found["best_of_4_judge"] == 0
    assert found["agreement"] == 3 / 8


def test_more_than_was_asked_for_is_right_and_not_strictly_so() -> None:
    class Full(Listed):
        def detect(self, picture: Image.Image) -> list[Detection]:
            circle, *_ = super().detect(picture)
            return [circle, Detection(name="square", score=0.9, box=(9, 9, 20, 20))]

    pictures = [Image.new("RGB", (32, 32))] * 4
    found = of_prompt(CIRCLE, pictures, (Full([0.9] * 4), Listed([0.9] * 4)))  # type: ignore[arg-type]
    assert found["exact"] == 1 and found["strict"] == 0
    found = of_prompt(CIRCLE, pictures, (Listed([0.9] * 4), Listed([0.9] * 4)))  # type: ignore[arg-type]
    assert found["strict"] == 1


def cell(arm: str, seed: int | None, scale: float, score: float, **tags: float) -> dict[str, Any]:
    prompts = [
        {
            "prompt": f"{tag} {number}",
            "tag": tag,
            **dict.fromkeys(("exact", "best_of_4_exact", "best_of_4_judge"), tags.get(tag, score)),
            "judge": score,
            "strict": score - 0.1,
            "agreement": 0.9,
            "diversity": 0.01,
        }
        for tag in TAGS
        for number in range(3)
    ]
    return {"arm": arm, "seed": seed, "cfg_scale": scale, "pictures": 16, "prompts": prompts}


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    """Before .5 guided and .4 without; after it, two seeds about .9."""
    before = [
        cell(arm, None, scale, 0.5 if scale > 1 else 0.4) for arm in ("last", "deep") for scale in (1.5, 1)
    ]
    after = [
        cell(arm, seed, scale, 0.88 + seed / 25)
        for arm in ("last", "deep")
        for scale in (1.5, 1)
        for seed in (0, 1)
    ]
    return before + after


def test_all_holds_where_all_rises(cells: list[dict[str, Any]]) -> None:
    holds = claims(cells, {"overall": 0.99}, {"last_grpo_0": 300.0})
    assert all(holds.values()) and len(holds) == 4 + 4 * 4
    assert any("both, guided: overall 0.900" in told for told in holds)
    rows = markdown(cells).splitlines()
    assert len(rows) == 2 + 8 and rows[2].startswith("| neither | 1.5 | 0.500 (0.50-0.50)")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"single_object": 0.3}, "both, guidance 1.5: no tag below its former interval (single_object)"),
        ({"counting": 0.5}, "both, guidance 1.5: counting 0.500 -> 0.500"),
        ({"overall": 0.5}, "both, guidance 1.5: and nothing else 0.400 -> 0.400"),
        ({"overall": 0.84}, "both, guided: overall 0.840 (>= 0.85)"),
    ],
)
def test_what_does_not_hold_is_told(cells: list[dict[str, Any]], change: dict[str, float], told: str) -> None:
    rest = [one for one in cells if (one["arm"], one["cfg_scale"]) != ("deep", 1.5) or one["seed"] is None]
    score = change.get("overall", 0.9)
    holds = claims([*rest, cell("deep", 0, 1.5, score, **change)], {"overall": 0.99}, {})
    assert [what for what, good in holds.items() if not good and what.startswith("both, guid")][-1] == told


def test_slow_training_and_an_unsure_judge_are_told(cells: list[dict[str, Any]]) -> None:
    holds = claims(cells, {"overall": 0.9}, {"deep_grpo_1": 901.0})
    assert [what for what, good in holds.items() if not good] == [
        "the judge's accuracy on true scenes is 0.900 (>= 0.95)",
        "post-training takes 901 s at most (<= 900)",
    ]


def test_arms_that_were_not_measured_claim_nothing(cells: list[dict[str, Any]]) -> None:
    only = [one for one in cells if one["arm"] == "last" and one["seed"] is None]
    assert list(claims(only, {"overall": 1.0}, {})) == [
        "the judge's accuracy on true scenes is 1.000 (>= 0.95)"
    ]
    assert len(markdown(only).splitlines()) == 4


def test_measured_prompts_occur_nowhere_else(tmp_path: Path) -> None:
    def leave(name: str, key: str, text: str) -> None:
        (tmp_path / name).write_text(json.dumps({key: text}) + "\n")

    leave("prompts.jsonl", "prompt", "a photo of a circle")
    leave("reward_prompts.jsonl", "prompt", "a photo of a square")
    leave("captions.jsonl", "caption", "a photo of a cross")
    assert [one["prompt"] for one in check_held_out(tmp_path)] == ["a photo of a circle"]
    leave("captions.jsonl", "caption", "a photo of a circle")
    with pytest.raises(UserError, match=r"captions\.jsonl: repeats 'a photo of a circle'"):
        check_held_out(tmp_path)


def test_each_arm_is_post_trained_once_by_the_demo_s_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, demo, out = tmp_path / "run", tmp_path / "demo", tmp_path / "out"
    recipe = yaml.safe_load(RECIPE.read_text())
    tokenizer = recipe["model"]["tokenizer"] | {"source": "elsewhere"}
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"tokenizer": tokenizer}}))
    stated: list[PostTrainingConfig] = []

    def trainer(command: list[str], **_: object) -> SimpleNamespace:
        stated.append(load_config(PostTrainingConfig, Path(command[-1])))
        Path(stated[-1].output, "model").mkdir(parents=True)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("benchmarks.better_pictures.subprocess.run", trainer)
    for _ in range(2):
        assert post_train(run, "deep", 2, demo, out) == out / "deep_grpo_2" / "model"
    (config,) = stated
    assert config.seed == 2 and config.init_from == str(run / "model") and config.steps == recipe["steps"]
    assert config.model.tokenizer.source == "elsewhere" and config.held_out is not None
    assert config.prompts.file == str(demo / "world" / "reward_prompts.jsonl")
    assert config.held_out.prompts == str(demo / "world" / "prompts.jsonl")
    assert config.held_out.judge.detector == str(demo / "judge")
    assert list(seconds(out)) == ["deep_grpo_2"]


def test_a_training_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"tokenizer": {}}}))
    failed = SimpleNamespace(returncode=2)
    monkeypatch.setattr("benchmarks.better_pictures.subprocess.run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"last_grpo_0: post_training/train\.py ended with 2"):
        post_train(tmp_path, "last", 0, tmp_path, tmp_path)
