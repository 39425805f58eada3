"""GenEval's phrasing: held against the official prompts, made by rule, and read back."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from common.benchmark_prompts import hashed, known_hashes
from common.errors import UserError
from evals.detectors.coco_classes import CLASSES, COLORS
from evals.detectors.world_shapes import SHAPES
from evals.geneval import phrasing
from evals.geneval.made_prompts import all_prompts, made_prompts, main
from evals.geneval.parsing import parse_prompt
from evals.geneval.phrasing import a, plural
from evals.geneval.rules import TAGS, Metadata, judge

TYPOS = {"toothbrushs": "toothbrushes", "sandwichs": "sandwiches", "benchs": "benches", "knifes": "knives"}
TYPOS |= {"sheeps": "sheep"}


@pytest.fixture(scope="module")
def official() -> list[Metadata]:
    folder = os.environ.get("VQRAE_TEST_DATA")
    if not folder:
        pytest.skip("VQRAE_TEST_DATA does not name the folder with GenEval's prompts")
    lines = (Path(folder) / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def made_again(metadata: Metadata) -> Metadata:
    """What `phrasing` makes of a prompt's wishes."""
    first, *rest = metadata["include"]
    other = rest[0] if rest else {}
    return {
        "single_object": lambda: phrasing.single_object(first["class"]),
        "two_object": lambda: phrasing.two_object(first["class"], other["class"]),
        "counting": lambda: phrasing.counting(first["class"], first["count"]),
        "colors": lambda: phrasing.colors(first["class"], first["color"]),
        "position": lambda: phrasing.position(other["class"], other["position"][0], first["class"]),
        "color_attr": lambda: phrasing.color_attr(
            (first["class"], first["color"]), (other["class"], other["color"])
        ),
    }[metadata["tag"]]()


def mended(text: str) -> str:
    return " ".join(TYPOS.get(word, word) for word in text.split())


def test_official_prompts_are_made_again_but_for_their_typos(official: list[Metadata]) -> None:
    assert len(official) == 553
    for metadata in official:
        assert made_again(metadata) == {**metadata, "prompt": mended(metadata["prompt"])}
        assert list(made_again(metadata)) == list(metadata)  # in the same order, too
    assert {word for one in official for word in one["prompt"].split()} >= TYPOS.keys()


def test_official_prompts_are_read_back(official: list[Metadata]) -> None:
    for metadata in official:
        text = mended(metadata["prompt"])
        assert parse_prompt(text, CLASSES, COLORS) == {**metadata, "prompt": text}


@pytest.mark.parametrize("classes", [CLASSES[:12], SHAPES])
def test_whatever_is_made_is_read_back(classes: tuple[str, ...]) -> None:
    for tag in TAGS:
        for make in all_prompts(tag, classes, COLORS[:3])[:400]:
            metadata = make()
            judge(metadata, [])
            assert parse_prompt(str(metadata["prompt"]), classes, COLORS) == metadata


def test_what_is_typed_is_read_as_it_is_meant() -> None:
    for text in ("Two circles", "a photo of two circles.", " A  photo of TWO circles"):
        metadata = parse_prompt(text, SHAPES, COLORS)
        assert metadata["tag"] == "counting" and metadata["prompt"] == text
        assert metadata["exclude"] == [{"class": "circle", "count": 3}]
    assert parse_prompt("a orange circle", SHAPES, COLORS)["include"][0]["color"] == "orange"
    # A class that is a colour, or holds one, or a link between two.
    odd = ("orange", "salt and pepper mill", "pepper", "wine glass", "glass")
    assert parse_prompt("an orange", odd, COLORS)["include"] == [{"class": "orange", "count": 1}]
    assert parse_prompt("an orange orange", odd, COLORS)["tag"] == "colors"
    both = parse_prompt("a salt and pepper mill and a wine glass", odd, COLORS)
    assert [wish["class"] for wish in both["include"]] == ["salt and pepper mill", "wine glass"]
    for wrong in (
        "a cat on a mat",
        "",
        "two circle",
        "a photo of",
        "one circle",
        "a cat and a circle",
        "eleven circles",
    ):
        with pytest.raises(UserError, match="no rules follow from this prompt: expected a photo of a CLASS"):
            parse_prompt(wrong, SHAPES, COLORS)


def test_articles_and_plurals() -> None:
    assert [a(noun) for noun in ("umbrella", "orange cup", "hair drier")] == [
        "an umbrella",
        "an orange cup",
        "a hair drier",
    ]
    said = {
        "bus": "buses",
        "wine glass": "wine glasses",
        "couch": "couches",
        "knife": "knives",
        "box": "boxes",
    }
    said |= {
        "cross": "crosses",
        "computer mouse": "computer mice",
        "sheep": "sheep",
        "tv": "tvs",
        "dog": "dogs",
    }
    assert {noun: plural(noun) for noun in said} == said


def test_as_many_of_each_tag_as_asked_for_and_none_of_a_benchmark() -> None:
    made = made_prompts(60, 3)
    # GenEval asks for each of the 80 classes alone.
    assert Counter(one.metadata["tag"] for one in made) == dict.fromkeys(TAGS[1:], 60)
    texts = [one.text for one in made]
    assert len(set(texts)) == len(texts) and not {hashed(text) for text in texts} & known_hashes().keys()
    assert all(one.text == one.metadata["prompt"] for one in made)
    assert made == made_prompts(60, 3) != made_prompts(60, 4)
    few = made_prompts(20, 3)  # a beginning of those, tag by tag
    assert few == [one for place, one in enumerate(made) if place % 60 < 20]
    barred = {hashed(text) for text in texts}
    assert not {hashed(one.text) for one in made_prompts(60, 3, without=barred)} & barred
    counted = {
        wish["class"] for one in made if one.metadata["tag"] == "counting" for wish in one.metadata["include"]
    }
    assert len(counted) > 30 and not counted & {"skis", "scissors"}


def test_the_command_writes_what_scorers_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evals.scorers.prompts import read_scored_prompts

    names, out, other = tmp_path / "names.txt", tmp_path / "made.jsonl", tmp_path / "other.jsonl"
    names.write_text("circle\nsquare\n\ncircle\n")
    given = ["--classes", str(names), "--colors", "red", "blue", "--per-tag", "3"]
    main(["--out", str(out), *given])
    first = read_scored_prompts(out)
    assert {one.metadata["tag"] for one in first} == set(TAGS) and len(first) == 2 + 2 + 3 + 3 + 3 + 3
    assert "fewer than 3 are left of single_object, two_object" in capsys.readouterr().out
    main(["--out", str(other), *given, "--without", str(out)])
    second = read_scored_prompts(other, [out])  # none of them is refused
    assert {one.metadata["tag"] for one in second} == {"counting", "colors", "position", "color_attr"}
    for more, named in (
        (["--out", str(out)], "is there already"),
        (["--classes", str(tmp_path / "no")], "cannot be read"),
    ):
        with pytest.raises(UserError, match=named):
            main(["--out", str(tmp_path / "new.jsonl"), *more])
    names.write_text("\n")
    with pytest.raises(UserError, match="no names of classes"):
        main(["--out", str(tmp_path / "new.jsonl"), "--classes", str(names)])
    names.write_text("bench\n")  # alone it is GenEval's, and of one class there is no pair
    (tmp_path / "all.txt").write_text("a photo of two benches\na photo of a gold bench\n")
    given = [
        "--classes",
        str(names),
        "--colors",
        "gold",
        "--counts",
        "2",
        "--without",
        str(tmp_path / "all.txt"),
    ]
    with pytest.raises(UserError, match="no prompts are left"):
        main(["--out", str(tmp_path / "new.jsonl"), *given])


def test_a_recipe_that_has_prompts_made_deals_each_tag_its_share() -> None:
    """COCO's classes alone leave no single object, so there are five tags to deal."""
    from common.config import load_config
    from post_training.config import PostTrainingConfig
    from post_training.prompts import Dealer

    path = Path(__file__).parents[2] / "post_training" / "recipes" / "qwen3_0_6b_grpo.yaml"
    config = load_config(PostTrainingConfig, path)
    assert config.prompts.made is not None
    prompts = made_prompts(config.prompts.made.per_tag, config.prompts.made.seed)
    dealer = Dealer(prompts, config.rollouts.prompts, config.prompts.balance, config.seed)
    assert set(dealer.tags) == set(TAGS[1:])
