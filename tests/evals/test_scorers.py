"""Scorers: what they make of pictures, several as one, their configs, and what is refused before anything is drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_detector
import tiny_generator
from PIL import Image, ImageDraw

from common.config import ConfigError, validate
from common.errors import UserError
from evals.detectors.world import WorldDetector
from evals.scorers.config import ScorerConfig, check_scorers
from evals.scorers.held_out import check_held_out
from evals.scorers.naming import scorer_named
from evals.scorers.opening import open_scorer, open_weighted
from evals.scorers.prompts import ScoredPrompt, read_scored_prompts
from evals.scorers.rules import RulesScorer
from evals.scorers.similarity import ClipScorer
from evals.scorers.weighted import WeightedScorer


def circle(color: str) -> ScoredPrompt:
    include = [{"class": "circle", "count": 1, "color": color}]
    text = f"a photo of a {color} circle"
    return ScoredPrompt(text, {"tag": "colors", "include": include, "prompt": text})


def page(color: str = "#dc1e1e") -> Image.Image:
    """A circle on light gray."""
    picture = Image.new("RGB", (32, 32), (200, 200, 200))
    ImageDraw.Draw(picture).ellipse((10, 10, 21, 21), fill=color)
    return picture


# ---- GenEval's rules -------------------------------------------------------------------------------------


def test_strict_rules_count_what_genevals_let_be() -> None:
    two, beside = page(), page()
    for picture, place in ((two, (1, 1, 10, 10)), (beside, None)):
        draw = ImageDraw.Draw(picture)
        if place:
            draw.ellipse(place, fill="#dc1e1e")
        else:
            draw.rectangle((1, 1, 8, 8), fill="#1e50dc")
    scores = {
        strict: RulesScorer(WorldDetector(), [circle("red")], strict=strict).score(
            circle("red"), [page(), two, beside]
        )
        for strict in ("off", "named", "all")
    }
    assert scores == {"off": [1, 1, 1], "named": [1, 0, 1], "all": [1, 0, 0]}


def test_rules_accept_or_not_and_grade() -> None:
    asked = [circle("red"), circle("blue")]
    scorer = RulesScorer(WorldDetector(), asked)
    assert [scorer.score(one, [page()]) for one in asked] == [[1.0], [0.0]]
    graded = RulesScorer(WorldDetector(), asked, graded=True)
    assert [graded.score(one, [page()]) for one in asked] == [[1.0], [0.5]]
    assert graded.identity != scorer.identity and graded.identity["by"] == scorer.identity["by"]
    assert scorer.score(asked[0], []) == []
    clear = page().convert("RGBA")
    modes = [
        page().convert("P", palette=Image.Palette.ADAPTIVE),
        page().convert("CMYK"),
        clear,
        page().convert("L"),
    ]
    assert scorer.score(asked[0], modes) == [1.0, 1.0, 1.0, 0.0]
    with pytest.raises(UserError, match="the detector world cannot look at a picture: image: expected"):
        scorer.score(asked[0], [page().crop((0, 0, 32, 16))])


def test_prompts_that_rules_do_not_cover_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [circle("red").metadata, {"prompt": "a dog in the snow"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = ScorerConfig(kind="rules", detector="world")
    with pytest.raises(
        UserError, match=r"^rewards\.0: .*p\.jsonl: line 2: no GenEval metadata that rules .*tag"
    ):
        open_scorer(rules, read_scored_prompts(path), "rewards.0", "cpu")
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog at night"}
    path.write_text(json.dumps(dog) + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl: line 1: class: the detector world does not know 'dog'"):
        open_scorer(rules, read_scored_prompts(path), "rewards.0", "cpu")
    for wrong in ([1], {"include": 3}, {"include": [3]}, None):
        bad = ScoredPrompt("x", {"tag": "colors", "include": wrong})
        with pytest.raises(UserError, match="prompt 'x': no GenEval metadata"):
            RulesScorer(WorldDetector(), [bad])


# ---- CLIP ------------------------------------------------------------------------------------------------


def test_clip_scores_by_similarity(tmp_path: Path) -> None:
    """Random weights, but the library's own similarity."""
    import torch
    from text_tokenizers import qwen_text_tokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    text_tokenizer = qwen_text_tokenizer()
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {**size, "vocab_size": len(text_tokenizer), "eos_token_id": text_tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=words, vision_config={**size, "image_size": 16, "patch_size": 8})
    model = CLIPModel(config)
    model.save_pretrained(tmp_path / "clip")
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(pictures, text_tokenizer).save_pretrained(tmp_path / "clip")
    scorer = ClipScorer(tmp_path / "clip", torch.device("cpu"))
    shown = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    found = scorer.score(ScoredPrompt("a circle", {}), shown)
    inputs = CLIPProcessor(pictures, text_tokenizer)(text=["a circle"], images=shown, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**inputs).logits_per_image[:, 0] / model.logit_scale.exp()
    torch.testing.assert_close(torch.tensor(found), expected.clamp_min(0))
    assert found[0] != found[1] or max(found) == 0
    tiny_generator.write_vqrae(tmp_path / "vqrae")
    with pytest.raises(UserError, match="model_type: expected 'clip', found 'vqrae'"):
        ClipScorer(tmp_path / "vqrae", torch.device("cpu"))


def test_clip_tells_what_it_cuts_and_whose_weights_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tiny_detector.write_clip(tmp_path / "clip")
    prompts = [ScoredPrompt("a" * 200, {}), ScoredPrompt("a cat", {})]
    scorer = open_scorer(ScorerConfig(kind="clip", model=str(clip)), prompts, "--judge", "cpu")
    assert "1 of 2 prompts are longer than the 77 tokens that CLIP reads" in capsys.readouterr().out
    assert len(scorer.score(prompts[0], [page(), page().convert("LA")])) == 2
    assert scorer.score(prompts[0], []) == []
    moved = clip.rename(tmp_path / "elsewhere")
    again = ClipScorer(moved, "cpu")
    assert again.identity["by"]["weights_sha256"] == scorer.identity["by"]["weights_sha256"]
    (moved / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"rewards.1: model: .*model.safetensors: empty"):
        open_scorer(ScorerConfig(kind="clip", model=str(moved)), [], "rewards.1", "cpu")


# ---- several ---------------------------------------------------------------------------------------------


class Fixed:
    """A scorer that has its mind made up."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores
        self.identity = {"name": "fixed", "by": {"scores": list(scores)}}

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        return list(self.scores[: len(pictures)])


def test_several_weigh_as_stated_and_stay_visible() -> None:
    both = WeightedScorer({"a": (3, Fixed(1, 0)), "b": (1, Fixed(0.5, 1)), "seen": (0, Fixed(0, 0))})
    two = [page(), page()]
    assert both.parts(circle("red"), two) == {"a": [1, 0], "b": [0.5, 1], "seen": [0, 0]}
    assert both.score(circle("red"), two) == pytest.approx([0.875, 0.25])
    assert both.score(circle("red"), []) == []
    assert json.loads(json.dumps(both.identity))["parts"]["a"]["share"] == 0.75
    for weights in ((0, 0), (2, -1)):
        with pytest.raises(ValueError, match="expected weights of 0 or more, one of them above 0"):
            WeightedScorer({str(place): (weight, Fixed(1)) for place, weight in enumerate(weights)})


def test_several_are_opened_in_the_order_of_their_list(tmp_path: Path) -> None:
    rules = [
        ScorerConfig(kind="rules", detector="world", name=name, graded=name == "soft")
        for name in ("soft", "hard")
    ]
    both = open_weighted(rules, [circle("blue")], "rewards", "cpu")
    assert both.parts(circle("blue"), [page()]) == {"soft": [0.5], "hard": [0.0]}
    absent = ScorerConfig(kind="clip", model=str(tmp_path / "gone"))
    with pytest.raises(
        UserError, match=r"^rewards\.1: missing here: a CLIP: .*gone: no such folder.*; set model$"
    ):
        open_weighted([rules[0], absent], [], "rewards", "cpu")
    with pytest.raises(UserError, match="rewards: scorers: two scorers are called 'hard'"):
        open_weighted([rules[1], rules[1]], [], "rewards", "cpu")


# ---- configs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"kind": "taste"}, "kind: .*'rules'.*found 'taste'"),
        ({"kind": "rules"}, "detector: a scorer of kind 'rules' needs it"),
        ({"kind": "questions"}, "model: a scorer of kind 'questions' needs it"),
        ({"kind": "clip", "graded": True}, "graded: only `rules` scorers have it, found kind 'clip'"),
        ({"kind": "legibility", "model": "x"}, "model: only `clip` and `questions` scorers have it"),
        ({"kind": "clip", "weight": -1}, "weight: expected 0 or more, found -1"),
        ({"kind": "clip", "weight": float("inf")}, "weight: "),
        ({"kind": "rules", "detector": "world", "graded": 1}, "graded: "),
        ({"kind": "rules", "detector": "world", "treshold": 1}, "treshold: unknown key"),
        ({"kind": "legibility", "reader": "eyes"}, "reader: .*'tesseract'"),
    ],
)
def test_a_config_is_refused_in_a_line(stated: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe: {named}"):
        validate(ScorerConfig, stated, "recipe")


def test_lists_of_scorers_are_refused() -> None:
    one = ScorerConfig(kind="clip", weight=0.0)
    for configs, named in (([], "found none"), ([one], "a weight above 0"), ([one, one], "'clip'; give one")):
        with pytest.raises(ValueError, match=f"^rewards: .*{named}"):
            check_scorers(configs, "rewards")


def test_names_of_a_command_line() -> None:
    assert scorer_named("rules:world", "--judge") == ScorerConfig(kind="rules", detector="world")
    assert scorer_named("rules:a:b", "--judge", "mine").color_clip == "mine"
    assert scorer_named("clip", "--judge") == ScorerConfig(kind="clip")
    assert scorer_named("clip:a/b", "--judge") == ScorerConfig(kind="clip", model="a/b")
    assert scorer_named("questions:a", "--judge") == ScorerConfig(kind="questions", model="a")
    for wrong in ("", "rules", "rules:", "questions", "world", "legibility:x"):
        with pytest.raises(UserError, match="--judge: expected one of rules:DETECTOR, clip"):
            scorer_named(wrong, "--judge")


@pytest.mark.parametrize(
    "name", ["rules:mask2former", "rules:no/where", "rules:gone", "rules:gone.pth", "clip", "questions:gone"]
)
def test_an_absent_model_is_told_at_once_with_how_to_get_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^rewards\.2: missing here: ") as caught:
        open_scorer(scorer_named(name, "x"), [], "rewards.2", "cpu")
    told = str(caught.value)
    assert "set model" in told or "detector" in told
    assert "--" not in told and not capsys.readouterr().out


# ---- a judge that is held out ----------------------------------------------------------------------------


def test_a_held_out_judge_has_other_eyes_than_any_reward(tmp_path: Path) -> None:
    prompts = [circle("red")]
    soft = open_weighted(
        [ScorerConfig(kind="rules", detector="world", graded=True)], prompts, "rewards", "cpu"
    )
    hard = open_scorer(ScorerConfig(kind="rules", detector="world"), prompts, "held_out.judge", "cpu")
    with pytest.raises(
        UserError, match=r"^held_out\.judge: looks at pictures with what the reward rules looks with"
    ):
        check_held_out(hard, soft, "held_out.judge")
    with pytest.raises(UserError, match="with what the reward geneval rules looks with"):
        check_held_out(hard, hard, "held_out.judge")
    clip = tiny_detector.write_clip(tmp_path / "clip")
    judge = ClipScorer(clip, "cpu")
    check_held_out(judge, soft, "held_out.judge")
    moved = ClipScorer(clip.rename(tmp_path / "moved"), "cpu")
    both = WeightedScorer({"rules": (1, hard), "seen": (1, moved)})
    with pytest.raises(UserError, match="with what the reward seen looks with"):
        check_held_out(judge, both, "held_out.judge")
    check_held_out(judge, WeightedScorer({"fixed": (1, Fixed(1))}), "held_out.judge")
