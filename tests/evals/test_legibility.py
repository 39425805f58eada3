"""Legibility as a scorer: what is read against what is to be read."""

from __future__ import annotations

import random
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from evals import reading
from evals.scorers.config import ScorerConfig
from evals.scorers.legibility import LegibilityScorer, edit_distance, likeness, plain
from evals.scorers.opening import open_scorer
from evals.scorers.prompts import ScoredPrompt


class Recalls:
    """A reader to whom a picture's width says what stands in it."""

    def __init__(self, said: dict[int, str]) -> None:
        self.said, self.identity = said, {"name": "recalls"}

    def read(self, picture: Image.Image) -> str:
        assert picture.mode == "RGB"
        return self.said[picture.width]


def sign(text: Any, where: str = "") -> ScoredPrompt:
    return ScoredPrompt("a sign", {"prompt": "a sign", "text": text}, where)


def test_the_nearer_what_is_read_the_higher_the_score() -> None:
    said = {1: "OPEN  24\nHOURS", 2: "open 24 hour", 3: "", 4: "exit", 5: "Open 24 hours, welcome"}
    scorer = LegibilityScorer(Recalls(said), [sign("Open 24 hours")])
    scores = scorer.score(sign("Open 24 hours"), [Image.new("L", (width, 4)) for width in said])
    assert scores[0] == 1 and scores[1] == pytest.approx(10 / 11) and scores[2] == 0
    assert 0 < scores[3] < scores[4] < scores[1]
    assert scorer.score(sign("x"), []) == []


def test_prompts_say_what_is_to_be_read() -> None:
    for text in (None, "", " \n", 24, ["a"]):
        with pytest.raises(
            UserError, match=r"^p\.jsonl: line 3: text: expected what is to be read in the picture"
        ):
            LegibilityScorer(Recalls({}), [sign("fine"), sign(text, "p.jsonl: line 3")])


def test_edit_distance_is_levenshteins() -> None:
    for first, second, apart in (
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("flaw", "lawn", 2),
        ("same", "same", 0),
    ):
        assert edit_distance(first, second) == edit_distance(second, first) == apart
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc", k=rng.randrange(7))) for _ in range(12)]
    for a in texts:
        for b in texts:
            apart = edit_distance(a, b)
            assert (apart == 0) == (a == b) and abs(len(a) - len(b)) <= apart <= max(len(a), len(b))
            assert all(apart <= edit_distance(a, c) + edit_distance(c, b) for c in texts)
            assert 0 <= likeness(a, b) <= 1
    assert plain("\N{LATIN SMALL LETTER E}\N{COMBINING ACUTE ACCENT}  X") == plain(
        "\N{LATIN SMALL LETTER E WITH ACUTE}x"
    )


@pytest.mark.parametrize("engine", ["rapidocr", "tesseract"])
def test_a_rendered_word_is_read(engine: Any) -> None:
    if not reading.is_there(engine):
        pytest.skip(f"{engine} is not installed: {reading.HOW_TO_GET[engine]}")
    picture = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(picture).text((20, 30), "BAKERY", fill="black", font=ImageFont.load_default(48))
    scorer = open_scorer(ScorerConfig(kind="legibility", reader=engine), [sign("Bakery")], "judge", "cpu")
    right, none = scorer.score(sign("Bakery"), [picture, Image.new("RGB", (320, 120), "white")])
    assert right == 1 and none == 0
    assert scorer.score(sign("Bank"), [picture])[0] < 0.6


def test_an_absent_reader_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "is_there", lambda engine: False)
    with pytest.raises(UserError, match=r"^rewards\.1: reader: .*setup\.sh ocr"):
        open_scorer(ScorerConfig(kind="legibility"), [sign("x")], "rewards.1", "cpu")
