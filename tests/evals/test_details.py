"""What a tokenizer loses of details: charts that are what they say, measures that fall as a picture is spoilt, and the
command from end to end."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from common.data.evaluation import evaluation_loader
from common.errors import UserError
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from evals.details import curves, measuring, pages, run
from evals.details.charts import Chart, DetailTest, kept
from evals.details.crowds import DenseScenes
from evals.details.faces import Face, SmallFaces, overlap
from evals.details.lines import Gratings, ThinLines
from evals.details.measuring import ORIGINAL
from evals.details.photographs import Photographs
from evals.details.words import WORDS, SmallText

SIDE = 32
KINDS = (lambda *made: SmallText(*made, None), ThinLines, Gratings, DenseScenes)


def identity(pixels: np.ndarray) -> np.ndarray:
    return pixels


def blurred(sigma: float) -> measuring.Rebuild:
    """A tokenizer that loses what a blur loses."""

    def rebuild(pixels: np.ndarray) -> np.ndarray:
        floating = ndimage.gaussian_filter(pixels.astype(float), (0, sigma, sigma, 0), mode="nearest")
        return np.rint(floating).clip(0, 255).astype(np.uint8)

    return rebuild


def means(test: DetailTest, rebuild: measuring.Rebuild, folder: Path, name: str) -> dict[str, float]:
    with tqdm(disable=True) as bar:
        rows = measuring.measure([test], rebuild, folder, {"source": name}, bar)[test.name]
    found = {measure: curves.curve(test, measure, rows) for measure in test.measures}
    return {measure: line.overall for measure, line in found.items() if line is not None}


@pytest.mark.parametrize("kind", KINDS, ids=("text", "lines", "gratings", "scenes"))
def test_nothing_is_lost_where_nothing_is_changed_and_more_by_more_blur(kind: Any, tmp_path: Path) -> None:
    test = kind(SIDE, 0, 4 if kind is DenseScenes else 16)
    (measure, *_) = test.measures
    reached = [means(test, identity, tmp_path, "same")[measure]]
    reached += [means(test, blurred(sigma), tmp_path, f"{sigma}")[measure] for sigma in (0.7, 1.5, 3.0)]
    assert reached[0] == pytest.approx(1, abs=0.02)
    assert all(before > after for before, after in pairwise(reached)), reached
    assert reached[-1] < 0.5


def test_a_chart_is_a_pure_function_and_shows_its_level() -> None:
    for kind in KINDS:
        test, again, other = kind(SIDE, 0, 2), kind(SIDE, 0, 2), kind(SIDE, 1, 2)
        charts = [test.chart(index) for index in range(len(test))]
        assert [chart.level for chart in charts] == [*test.levels] * 2
        assert all(chart.pixels.shape == (SIDE, SIDE, 3) for chart in charts)
        assert all(
            np.array_equal(chart.pixels, again.chart(index).pixels) for index, chart in enumerate(charts)
        )
        assert any(
            not np.array_equal(chart.pixels, other.chart(index).pixels) for index, chart in enumerate(charts)
        )


@pytest.mark.parametrize("side", [32, 64, 256])
def test_letters_have_the_height_that_is_said(side: int) -> None:
    test = SmallText(side, 0, 2, None)
    for index in range(len(test)):
        chart = test.chart(index)
        gray = chart.pixels[..., 0].astype(int)
        inked = np.abs(gray - np.median(gray)) > 0.5 * np.ptp(gray)
        assert abs(np.ptp(np.flatnonzero(inked.any(1))) + 1 - chart.level) <= max(1, 0.05 * chart.level), (
            chart.facts
        )  # an O is higher


def test_a_line_is_as_wide_as_it_says() -> None:
    test = ThinLines(64, 0, 4)
    for index in range(len(test)):
        chart = test.chart(index)
        gray = chart.pixels[..., 0].astype(float)
        ink = np.abs(gray - np.median(gray)).sum(0).max() / (255 * chart.facts["contrast"])
        # Along a column, the line covers its width divided by the cosine of its slope.
        slope = abs(np.sin(np.radians(chart.facts["angle"])))
        if slope > 0.5 and chart.level >= 1:
            assert ink == pytest.approx(chart.level / slope, rel=0.25), chart.facts


def test_kept_is_the_share_of_the_contrast() -> None:
    wave = np.sin(np.arange(64) / 3)
    assert kept(wave, 0.3 * wave + 9) == pytest.approx(0.3) and kept(wave, -wave) == pytest.approx(-1)
    assert kept(wave, np.full(64, 5.0)) == 0


def test_a_grating_blurred_has_the_transfer_that_theory_gives(tmp_path: Path) -> None:
    """Of a Gaussian: exp(-2 (pi sigma / period)^2)."""
    test = Gratings(64, 0, 12)
    with tqdm(disable=True) as bar:
        rows = measuring.measure([test], blurred(1.0), tmp_path, {}, bar)["gratings"]
    line = curves.curve(test, "kept", rows)
    assert line is not None
    for level, mean in zip(line.level, line.mean, strict=True):
        if level <= 12:  # whose waves are many: the border of the picture counts little
            assert mean == pytest.approx(np.exp(-2 * (np.pi / level) ** 2), abs=0.05), level
    assert line.half == pytest.approx(np.pi * (2 / np.log(2)) ** 0.5, rel=0.05)


def test_where_half_is_left() -> None:
    assert curves.half_left([8, 4, 2], [1, 0.75, 0.25]) == pytest.approx(8**0.5)
    assert curves.half_left([1, 4, 16], [1, 0.5, 0.0]) == pytest.approx(4)
    assert curves.half_left([8, 4], [0.4, 0.6]) is None and curves.half_left([8, 4], [1, 0.5]) is None


class Reader:
    identity = {"name": "test"}

    def __init__(self) -> None:
        self.asked = 0

    def read(self, picture: Image.Image) -> str:
        self.asked += 1
        return "a dog." if self.asked % 2 else "Dog!"


def test_ocr_counts_a_word_whatever_its_case_and_only_where_it_can_be_read(tmp_path: Path) -> None:
    reader = Reader()
    test = SmallText(64, 0, 10, reader)
    with tqdm(disable=True) as bar:
        rows = measuring.measure([test], identity, tmp_path, {}, bar)["text"]
    having = [row for row in rows if "ocr" in row["scores"]]
    assert reader.asked == len(having) == 8 * len(test.levels) < len(rows)
    for row in having:
        assert row["scores"]["ocr"] == float(row["said"]["ocr_as"] == "Dog!" and row["said"]["word"] == "DOG")
    assert SmallText(SIDE, 0, 1, reader).reader is None and len(set(WORDS)) == len(WORDS) == 32


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PART", 4)
    test, seen = ThinLines(SIDE, 0, 2), []

    def counting(pixels: np.ndarray) -> np.ndarray:
        if len(seen) == 2 and not tolerant:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return blurred(1.0)(pixels)

    def measure(facts: dict[str, Any]) -> Any:
        with tqdm(disable=True) as bar:
            return measuring.measure([test], counting, tmp_path, facts, bar)

    tolerant = False
    with pytest.raises(KeyboardInterrupt):
        measure({"model": "a"})
    tolerant = True
    first = measure({"model": "a"})
    assert sum(seen) == len(test) and measure({"model": "a"}) == first and sum(seen) == len(test)
    (next(iter(tmp_path.iterdir()))).write_text('[{"ind')  # torn by whatever
    assert measure({"model": "a"}) == first and len(test) < sum(seen) < 2 * len(test)
    seen.clear()
    assert measure({"model": "b"}) == first and sum(seen) == len(test)


def make_pictures(folder: Path) -> Path:
    """Noise of rising strength: the finer detail, the more a blur takes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        noise = rng.normal(0, 3 + 6 * number, (40, 40, 3))
        Image.fromarray(np.clip(128 + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def test_pictures_with_more_detail_lose_more(tmp_path: Path) -> None:
    test = Photographs(evaluation_loader(str(make_pictures(tmp_path / "in")), SIDE, 4))
    with tqdm(disable=True) as bar:
        rows = measuring.measure([test], blurred(1.0), tmp_path / "kept", {}, bar)["pictures"]
    line = curves.curve(test, "psnr", rows)
    assert line is not None and line.count == [2] * 5 and line.half is None
    assert line.level == sorted(line.level) and line.mean == sorted(line.mean, reverse=True)
    assert [row["said"]["key"] for row in rows] == [f"{number}.png" for number in range(10)]


class BrightFaces:
    """Finds one face wherever a picture's middle is brighter than its border."""

    identity = {"name": "bright"}
    compares = True

    def find(self, picture: np.ndarray) -> list[Face]:
        bright = float(picture[12:20, 12:20].mean()) > float(picture[:2].mean()) + 20
        return [Face((12.0, 12.0, 8.0, 8.0), np.zeros(15))] if bright else []

    def difference(self, face: Face, one: np.ndarray, other: np.ndarray) -> float:
        return 0.25


def test_faces_are_those_of_the_original(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, middle in (("face", 250), ("none", 100)):
        pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
        pixels[12:20, 12:20] = middle
        Image.fromarray(pixels).save(folder / f"{name}.png")
    test = SmallFaces(evaluation_loader(str(folder), SIDE, 2), BrightFaces())
    assert means(test, identity, tmp_path / "kept", "same") == {"found": 1, "unlike": 0.25}
    assert means(test, lambda pixels: pixels * 0 + 100, tmp_path / "kept", "gone")["found"] == 0
    assert (
        overlap((0, 0, 4, 4), (2, 0, 4, 4)) == pytest.approx(1 / 3)
        and overlap((0, 0, 1, 1), (5, 5, 1, 1)) == 0
    )


def test_the_worst_come_first_and_of_equals_the_easier() -> None:
    test = SmallText(SIDE, 0, 1, None)
    levels, read = (8, 6, 4), {ORIGINAL: (1, 1, 0), "model": (0, 0, 0)}
    rows = {
        source: {
            "text": [
                {"index": at, "level": level, "scores": {"read": score}}
                for at, (level, score) in enumerate(zip(levels, scores, strict=True))
            ]
        }
        for source, scores in read.items()
    }
    assert pages.worst(test, rows) == [0, 1, 2]
    test.harder = "larger"  # type: ignore[assignment]
    assert pages.worst(test, rows) == [1, 0, 2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random tokenizers of 32 px, one as a run's folder, and one of 48 px."""
    root = tmp_path_factory.mktemp("models")
    for seed, (name, patch) in enumerate({"one/model": 4, "two": 4, "large": 6}.items()):
        torch.manual_seed(seed)
        architecture = {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
        }
        VQRAE.from_encoder(build_encoder(architecture), 32, 16, output_patch_size=patch).save_pretrained(
            root / name
        )
    return root


@pytest.mark.slow
def test_the_command_compares_tokenizers(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(tmp_path / "in")
    words = [str(models / "one" / "model"), str(models / "two"), "--images", str(tmp_path / "in")]
    words += ["--output", str(tmp_path / "out"), "--per-level", "2", "--device", "cpu"]
    run.main(words)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"text_read, one", "text_read, two", "pictures_psnr, two"} <= set(results["scores"])
    assert results["protocol"] == "details, 32 px" and results["complete"] and not results["partial"]
    charts = results["settings"]["charts"]
    assert charts["pictures"] == 10 and results["counts"]["scored"] == 2 * sum(charts.values())
    assert results["details"]["original"]["lines_kept"] == pytest.approx(1)
    assert len(results["model"]["weights_sha256"]["one"]) == 64
    assert set(results["details"]["curves"]) == {"original", "one", "two"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * sum(charts.values())
    assert {path.stem for path in (tmp_path / "out" / "pages").iterdir()} == set(charts)
    with Image.open(tmp_path / "out" / "figure.png") as figure:
        assert figure.width > 1000
    said = capsys.readouterr().out
    assert "left out: faces" in said and "left out: text read by OCR" in said
    run.main([*words[:1], *words[2:], "--limit", "3"])
    limited = json.loads((tmp_path / "out" / "results.json").read_text())
    assert limited["partial"] and limited["counts"]["scored"] == 15 and "text_read" in limited["scores"]


def test_bad_input_is_one_line(models: Path, tmp_path: Path) -> None:
    images, good = str(make_pictures(tmp_path / "in")), str(models / "two")
    (tmp_path / "none.onnx").write_text("none")
    (tmp_path / "in" / "torn.png").write_bytes((tmp_path / "in" / "0.png").read_bytes()[:200])
    cases = [
        ([good, good], "twice"),
        ([good, str(models / "large")], "--size"),
        ([str(tmp_path / "absent")], "absent"),
        ([good, "--images", str(tmp_path / "nowhere")], "nowhere"),
        ([good, "--images", images], "torn.png"),
        ([good, "--face-detector", str(tmp_path / "none.onnx")], "--images"),
        ([good, "--images", images, "--face-detector", str(tmp_path / "absent.onnx")], "absent.onnx"),
        ([good, "--images", images, "--face-detector", str(tmp_path / "none.onnx")], "none.onnx"),
    ]
    for words, named in cases:
        with pytest.raises(UserError) as error:
            run.main([*words, "--output", str(tmp_path / "out"), "--per-level", "1", "--device", "cpu"])
        assert named in str(error.value) and "\n" not in str(error.value), words


def test_models_are_called_by_their_runs() -> None:
    assert run.labels(["runs/a/model", "runs/b", "owner/c"]) == ["a", "b", "c"]
    assert run.labels(["x/stage1", "y/stage1"]) == ["x/stage1", "y/stage1"]


def test_a_chart_may_have_no_scores() -> None:
    assert curves.curve(Gratings(SIDE, 0, 1), "kept", []) is None
    assert Chart(np.zeros((1, 1, 3), np.uint8), 1.0).facts == {}
