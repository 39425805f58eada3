"""`vqrae tune-sampling`: the search, which prompts it refuses, and what it puts into a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generator
from PIL import Image

from common.errors import run_cli
from evals.scorers.prompts import ScoredPrompt
from evals.tuning import kept_scores
from evals.tuning.search import budget, difference, rounds, search
from generation.generator import Generator
from generation.model_folder import load_generator
from generation.sampling import Sampling
from vqrae import cli, tune_sampling

NOW = Sampling(cfg_scale=5.0)
CANDIDATES = [Sampling(cfg_scale=s, temperature=t) for s in (1.0, 1.5, 2.0, 3.0) for t in (0.8, 1.0, 1.2)]


# ---- the search ------------------------------------------------------------------------------------------


def likes(best: float) -> Callable[[Sampling, Sequence[int]], list[float]]:
    """The nearer guidance is to `best` and temperature to 1, the better; some prompts are easier."""

    def measure(sampling: Sampling, numbers: Sequence[int]) -> list[float]:
        asked.append((sampling, tuple(numbers)))
        away = abs(sampling.cfg_scale - best) + abs(sampling.temperature - 1)
        return [1 - away / 10 + (number % 3) / 100 for number in numbers]

    asked: list[tuple[Sampling, tuple[int, ...]]] = []
    measure.asked = asked  # type: ignore[attr-defined]
    return measure


def test_the_best_goes_furthest_and_no_picture_is_drawn_twice() -> None:
    measure: Any = likes(2.0)
    trials = search(NOW, CANDIDATES, 16, measure)
    assert trials[0].sampling == Sampling(cfg_scale=2.0, temperature=1.0) and len(trials[0].scores) == 16
    assert {one.sampling for one in trials} == {NOW, *CANDIDATES}
    own = next(one for one in trials if one.sampling == NOW)
    assert len(own.scores) == 16
    gain, error = difference(trials[0], own)
    assert gain == pytest.approx(0.3) and error == pytest.approx(0)
    drawn = [(sampling, number) for sampling, numbers in measure.asked for number in numbers]
    assert len(drawn) == len(set(drawn)) <= budget(len(CANDIDATES), 16, 1) <= 16 * len(CANDIDATES) / 2


def test_what_stands_now_may_win() -> None:
    trials = search(NOW, CANDIDATES, 8, likes(5.0))
    assert trials[0].sampling == NOW and difference(trials[0], trials[0]) == (0, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 100])
def test_rounds_grow_and_are_spread(count: int) -> None:
    parts = rounds(count)
    assert parts[-1] == list(range(count))
    for few, more in pairwise(parts):
        assert set(few) < set(more)
    if count == 100:
        assert all(any(first <= one < first + 20 for one in parts[0]) for first in range(0, 100, 20))


# ---- the command -----------------------------------------------------------------------------------------


class Likeness:
    """A scorer that likes pictures of a prompt the more alike they are: a low temperature is best."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "likeness"}

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        pixels = np.stack([np.asarray(one, np.float64) for one in pictures])
        return [1 - float(apart) for apart in abs(pixels - pixels.mean(0)).mean((1, 2, 3)) / 255]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    tiny_generator.write_generator(tmp_path / "model")
    monkeypatch.setattr(tune_sampling, "_scorer", lambda *_: Likeness())
    (tmp_path / "p.txt").write_text("a cat\na dog\na cow\na hen\n")

    def call(*arguments: str) -> int:
        words = [word.replace("{out}", str(tmp_path)) for word in arguments]
        fixed = ["--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "tune"), "--device", "cpu"]
        given = ["--scorer", "world", "-n", "2", "--cfg-scale", "1", "2", "--temperature", "1", "0.01"]
        argv = ["vqrae", "tune-sampling", str(tmp_path / "model"), *fixed, *given, *words]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            run_cli(cli.dispatch)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def test_what_is_found_is_written_and_drawn_with(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_generator(str(tmp_path / "model")).sampling
    assert command() == 0
    assert load_generator(str(tmp_path / "model")).sampling == before  # told nothing, it changes nothing
    found = json.loads((tmp_path / "tune" / "tuning.json").read_text())
    assert len(found["trials"]) == 5 and found["gain"] > found["standard_error"]
    said = capsys.readouterr().out
    assert "4 settings and MODEL's own (guidance 5, temperature 1, all codes) on 4 prompts" in said
    assert "better than MODEL's own by" in said and said.count("#\n") + said.count("own)\n") == 5
    assert command("--write") == 0
    after = load_generator(str(tmp_path / "model"))
    assert after.sampling.temperature == 0.01 == found["best"]["temperature"]
    assert "tune-sampling" in after.origin and "4 prompts of p.txt" in after.origin
    assert after.model.generation_config.temperature == after.sampling.temperature
    generator = Generator.from_pretrained(str(tmp_path / "model"))
    scores = [
        Likeness().score(ScoredPrompt("a red circle", {}), row)
        for row in generator.generate(["a cat", "a dog"], 2)
    ]
    drawn = kept_scores.KeptScores(
        tmp_path / "again", generator, Likeness(), [ScoredPrompt(t, {}) for t in ("a cat", "a dog")],
        2, 0, 4, lambda _: None,
    ).measure(after.sampling, [0, 1])  # fmt: skip
    assert drawn == pytest.approx([sum(one) / 2 for one in scores])


def test_a_search_that_was_stopped_goes_on(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Sampling] = []
    draw = kept_scores.KeptScores._draw

    def stopping(self: Any, texts: Any, sampling: Sampling) -> list[float]:
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(sampling)
        return draw(self, texts, sampling)

    monkeypatch.setattr(kept_scores.KeptScores, "_draw", stopping)
    assert command() == 130
    drawn[:] = []
    monkeypatch.setattr(
        kept_scores.KeptScores,
        "_draw",
        lambda *a: drawn.append(a[2]) or draw(*a),  # type: ignore[func-returns-value]
    )
    assert command() == 0
    resumed = (tmp_path / "tune" / "tuning.json").read_text()
    count = len(drawn)
    assert command("--out", str(tmp_path / "whole")) == 0
    assert json.loads((tmp_path / "whole" / "tuning.json").read_text()) == json.loads(resumed)
    assert len(drawn) - count == count + 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--prompts {out}/bench.txt", "is a prompt of GenEval"),
        ("--held-out {out}/p.txt", "'a cat' is a prompt of "),
        ("--cfg-scale 1 1e38", "--cfg-scale: expected 0 to 1000"),
        ("--temperature 0", "--temperature: expected 0.001 to 1000"),
        ("--seed -3", "--seed: expected 0"),
        ("--prompts {out}/gone.txt", "gone.txt: cannot be read"),
        ("--prompts {out}/bad.jsonl", "bad.jsonl: line 1: expected an object with `prompt`"),
    ],
)
def test_what_is_refused(
    arguments: str,
    named: str,
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bench.txt").write_text("a photo of a bench\n")
    (tmp_path / "bad.jsonl").write_text("3\n")
    assert command(*arguments.split()) == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error and error.count("error: ") == 1
    assert not (tmp_path / "tune").exists()


def test_scores_of_another_search_are_not_mixed(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--cfg-scale", "1") == 0
    assert command("--cfg-scale", "2") == 0  # other settings are the same search
    assert command("--seed", "1") == 2
    assert "holds the scores of another search (seed)" in capsys.readouterr().err
