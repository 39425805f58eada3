"""`vqrae generate --best-of`: which pictures are chosen, that a stopped call goes on, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_detector
import tiny_generator
from PIL import Image

from common.data.images import read_image
from common.errors import run_cli
from evals.scorers.best_of import best_of, ranked
from evals.scorers.prompts import ScoredPrompt
from generation.generator import Generator
from vqrae import choosing, cli


class Brightness:
    """A scorer that likes bright pictures."""

    seen = 0

    def __init__(self, name: str = "brightness") -> None:
        self.identity = {"name": name, "by": {"name": "eyes"}}

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        type(self).seen += len(pictures)
        return [float(np.asarray(one, np.float64).mean()) / 255 for one in pictures]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator") / "model"
    tiny_generator.write_generator(folder)
    return folder


@pytest.fixture
def call(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`vqrae generate`, judged by `Brightness` unless --judge is given."""

    def call(*arguments: str, out: str = "out") -> int:
        words = ["vqrae", "generate", str(model), *arguments, "--out", str(tmp_path / out), "--device", "cpu"]
        if "--judge" not in arguments and "--best-of" in arguments:
            monkeypatch.setattr(choosing, "open_judge", lambda _, prompts, __: (list(prompts), Brightness()))
            words += ["--judge", "clip"]
        monkeypatch.setattr(sys, "argv", words)
        try:
            run_cli(cli.dispatch)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: read_image(path).tobytes() for path in sorted(folder.glob("[0-9]*.png"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_ranks_are_those_of_the_scores() -> None:
    assert ranked([0.1, 0.5, 0.2, 0.5]) == [1, 3, 2, 0]
    assert ranked([]) == []


def test_the_best_of_those_that_are_drawn_without_it(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("a red cup", "-n", "6", "--seed", "3", out="plain") == 0
    plain = pictures(tmp_path / "plain")
    bright = {name: np.frombuffer(pixels, np.uint8).mean() for name, pixels in plain.items()}
    best = sorted(bright, key=lambda name: -bright[name])
    assert len(set(bright.values())) > 2
    assert call("a red cup", "--best-of", "6", "-n", "2", "--seed", "3") == 0
    assert pictures(tmp_path / "out") == {name: plain[name] for name in best[:2]}
    assert not (tmp_path / "out" / "others").exists() and (tmp_path / "out" / "sheet.png").is_file()
    (row,) = rows(tmp_path / "out")
    assert row["scores"] == pytest.approx([bright[name] / 255 for name in sorted(plain)])
    assert row["files"] == best[:2] and row["prompt"] == "a red cup"
    stated = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert stated["chosen_by"] == Brightness().identity and stated["seed"] == 3
    assert "chosen for 1 prompts; mean score" in capsys.readouterr().out
    # Another batch size, and the others kept.
    more = ("--best-of", "6", "-n", "2", "--seed", "3", "--batch-size", "4", "--keep-all")
    assert call("a red cup", *more, out="all") == 0
    assert pictures(tmp_path / "all") == pictures(tmp_path / "out")
    rest = {name: plain[name] for name in best[2:]}
    assert pictures(tmp_path / "all" / "others") == rest
    # They stay when a later call keeps its own no more, and are there to choose from.
    assert call("a blue cup", "--best-of", "2", "--seed", "3", out="all") == 0
    assert pictures(tmp_path / "all" / "others") == rest
    assert call("a red cup", "--best-of", "6", "--seed", "3", out="all") == 0
    assert pictures(tmp_path / "all").keys() & plain.keys() == {best[0]}
    assert not (tmp_path / "all" / "others").exists()


def test_the_same_in_python(model: Path) -> None:
    generator = Generator.from_pretrained(str(model), "cpu")
    prompts = [ScoredPrompt(text, {}) for text in ("a cat", "two dogs")]
    drawn = generator.generate([one.text for one in prompts], 4, seed=1)
    for chosen, row in zip(
        best_of(generator, prompts, Brightness(), of=4, keep=2, seed=1), drawn, strict=True
    ):
        scores = Brightness().score(prompts[0], row)
        assert [score for _, score in chosen] == sorted(scores, reverse=True)[:2]
        assert chosen[0][0].tobytes() == row[ranked(scores)[0]].tobytes()
    with pytest.raises(ValueError, match="keep: expected 1 to 4, found 5"):
        best_of(generator, prompts, Brightness(), of=4, keep=5)


def test_a_call_that_was_stopped_goes_on(
    call: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\na cow\n")
    more = ("--prompts", str(tmp_path / "p.txt"), "--best-of", "3", "--batch-size", "3")
    assert call(*more, out="whole") == 0
    draw, scored, places = Generator.draw, Brightness.score, []

    def stopping_draw(*arguments: Any, **options: Any) -> Any:
        places.append("drawn")
        if len(places) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    def stopping_score(self: Brightness, prompt: ScoredPrompt, shown: Any) -> list[float]:
        if prompt.text == "a dog":
            raise KeyboardInterrupt
        return scored(self, prompt, shown)

    monkeypatch.setattr(Generator, "draw", stopping_draw)
    assert call(*more) == 130 and not pictures(tmp_path / "out")
    monkeypatch.setattr(Generator, "draw", lambda *a, **b: places.append("again") or draw(*a, **b))  # type: ignore[func-returns-value]
    monkeypatch.setattr(Brightness, "score", stopping_score)
    assert call(*more) == 130 and not pictures(tmp_path / "out")
    monkeypatch.setattr(Brightness, "score", scored)
    before, Brightness.seen = len(places), 0
    assert call(*more) == 0
    assert places.count("again") == 2 and len(places) == before  # one batch was there; nothing is drawn again
    assert Brightness.seen == 6  # the first prompt was judged
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_a_folder_grows(call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("a cat", "--best-of", "3") == 0
    assert call("a dog", "--best-of", "3") == 0
    first = pictures(tmp_path / "out")
    assert [name[:5] for name in first] == ["00000", "00001"] and len(rows(tmp_path / "out")) == 2
    Brightness.seen = 0
    capsys.readouterr()
    assert call("a cat", "--best-of", "3") == 0
    assert Brightness.seen == 0 and "chosen for 0 prompts, 1 were there" in capsys.readouterr().out
    assert call("a cat", "--best-of", "8") == 0
    assert call("a cat", "--best-of", "8", out="fresh") == 0
    grown = pictures(tmp_path / "out")
    assert {name: pixels for name, pixels in grown.items() if name.startswith("00000")} == pictures(
        tmp_path / "fresh"
    )
    assert {name: pixels for name, pixels in grown.items() if name.startswith("00001")} == {
        name: pixels for name, pixels in first.items() if name.startswith("00001")
    }
    assert rows(tmp_path / "out")[0] == rows(tmp_path / "fresh")[0]
    # A chosen picture that is gone is chosen again.
    (gone,) = (tmp_path / "fresh").glob("0*.png")
    pixels = read_image(gone).tobytes()
    gone.unlink()
    assert call("a cat", "--best-of", "8", out="fresh") == 0
    assert read_image(gone).tobytes() == pixels


def test_what_is_there_is_not_mixed_with_others(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("a cat", "--best-of", "3") == 0
    before = pictures(tmp_path / "out")

    def said() -> str:
        error = capsys.readouterr().err
        assert "Traceback" not in error and error.count("error: ") == 1
        return error

    assert call("a cat", "-n", "3") == 2 and "holds pictures of other settings (chosen_by: {" in said()
    assert call("a cat", "--best-of", "3", "--seed", "1") == 2 and "(seed: 0, now 1)" in said()
    assert call("a cat", "-n", "1", out="plain") == 0
    assert call("a cat", "--best-of", "3", out="plain") == 2 and "(chosen_by: None, now" in said()
    assert pictures(tmp_path / "out") == before
    (tmp_path / "mine" / "others").mkdir(parents=True)
    (tmp_path / "mine" / "others" / "note.txt").write_text("dear")
    assert (
        call("a cat", "--best-of", "3", out="mine") == 2 and "others: is there already, and VQRAE" in said()
    )
    (tmp_path / "out" / "scores.jsonl").write_text('{"prompt": 3}\n')
    assert call("a cat", "--best-of", "3") == 2 and "scores.jsonl: line 1: no record of a choice" in said()
    assert call("a cat", "--best-of", "3", "--seed", "1", "--overwrite") == 0
    assert len(rows(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("a --judge clip", "--judge: says nothing without --best-of"),
        ("a --keep-all", "--keep-all: says nothing without --best-of"),
        ("a --best-of 3 -n 4 --judge clip", "-n: expected 1 to 3 (--best-of), found 4"),
        ("a --best-of 3 --judge taste", "--judge: expected one of rules:DETECTOR, clip"),
        ("a --best-of 3 --judge clip:gone", "--judge: missing here: a CLIP: gone: no such folder"),
        (
            "a --best-of 3 --judge questions:gone",
            "--judge: missing here: a model that answers questions: gone",
        ),
        ("a --best-of 3 --judge rules:gone", "--judge: missing here: the detector's weights: gone"),
        (
            "a --best-of 3 --judge rules:world",
            "'a': no rules follow from this prompt: expected a photo of a CLASS",
        ),
        ("a --best-of 3 --judge legibility", "text: expected what is to be read in the picture, found None"),
        (
            "--prompts {tmp}/bad.jsonl --best-of 3 --judge rules:world",
            "bad.jsonl: line 2: no GenEval metadata",
        ),
        (
            "--prompts {tmp}/dog.jsonl --best-of 3 --judge rules:world",
            "dog.jsonl: line 1: class: the detector world",
        ),
        ("a --best-of 3 --judge questions:{tmp} --phrasing {tmp}/no.yaml", "--judge: phrasing: "),
    ],
)
def test_what_cannot_be_judged_is_told_before_anything_is_drawn(
    arguments: str, named: str, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = {"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a circle"}
    bad = {"tag": "taste", "include": [{"class": "circle", "count": 1}], "prompt": "a nice circle"}
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (fine, bad)))
    (tmp_path / "dog.jsonl").write_text(json.dumps(dog) + "\n")
    if "legibility" in arguments:
        pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    assert call(*arguments.replace("{tmp}", str(tmp_path)).split(" ")) == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error and error.count("error: ") == 1
    assert not (tmp_path / "out").exists()


def test_rules_follow_from_the_text_of_a_plain_prompt(call: Callable[..., int], tmp_path: Path) -> None:
    assert call("Two red circles and more", "--best-of", "2", "--judge", "rules:world") == 2
    assert call("two circles", "--best-of", "2", "--judge", "rules:world") == 0
    (row,) = rows(tmp_path / "out")
    assert row["metadata"]["tag"] == "counting" and row["metadata"]["prompt"] == "two circles"
    stated = json.loads((tmp_path / "out" / "settings.json").read_text())["chosen_by"]
    assert stated["by"]["name"] == "world" and stated["graded"]


def test_clip_chooses(call: Callable[..., int], tmp_path: Path) -> None:
    clip = tiny_detector.write_clip(tmp_path / "clip")
    assert call("a cat", "--best-of", "3", "--judge", f"clip:{clip}") == 0
    assert len(rows(tmp_path / "out")[0]["scores"]) == 3
    moved = clip.rename(tmp_path / "moved")
    assert call("a dog", "--best-of", "3", "--judge", f"clip:{moved}") == 0


@pytest.mark.slow
def test_several_processes_choose_the_same(model: Path, tmp_path: Path) -> None:
    import subprocess

    prompts = tmp_path / "p.txt"
    prompts.write_text("two circles\na red square\na cross\n")
    shared = ["generate", str(model), "--prompts", str(prompts), "--best-of", "3", "--keep-all"]
    shared += ["--judge", "rules:world"]
    for processes in (1, 2):
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
            "vqrae.cli",
        ]
        command = [
            sys.executable,
            *launch,
            *shared,
            "--device",
            "cpu",
            "--out",
            str(tmp_path / str(processes)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    assert pictures(tmp_path / "1") == pictures(tmp_path / "2")
    assert pictures(tmp_path / "1" / "others") == pictures(tmp_path / "2" / "others")
    assert rows(tmp_path / "1") == rows(tmp_path / "2")
