"""The GenEval command on the miniature world, whose pictures and verdicts are known exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generator
from PIL import Image
from scipy import stats

from common.errors import UserError
from evals import targets
from evals.bootstrap import intervals
from evals.command import spread
from evals.detectors import world
from evals.detectors.detection import Detection
from evals.fingerprint import fingerprint
from evals.geneval import run as geneval
from evals.geneval.prompts import OFFICIAL_SHA256, described_prompts, read_prompts, sha256_of
from evals.geneval.rules import TAGS
from scripts.demo import captions, scenes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of each of eight prompts, drawn as the prompts ask, all six tags among them."""
    folder = tmp_path_factory.mktemp("pictures")
    wanted: dict[str, list[scenes.Scene]] = {}
    prompts: dict[str, dict[str, Any]] = {}
    for index in range(3000):
        scene = scenes.make_scene(index, seed=3)
        for metadata in captions.captions(scene):
            wanted.setdefault(metadata["prompt"], []).append(scene)
            prompts[metadata["prompt"]] = metadata
    for tag in (*TAGS, "counting", "position"):
        number = len(list(folder.iterdir()))
        text = [p for p, found in wanted.items() if prompts[p]["tag"] == tag and len(found) > 1][number // 6]
        place = folder / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps(prompts[text]))
        for image, scene in enumerate(wanted[text][:2]):
            Image.fromarray(scenes.render(scene)).save(place / "samples" / f"{image:04d}.png")
    return folder


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the pictures, to be changed."""
    return shutil.copytree(pictures, tmp_path / "pictures")


def run(pictures: Path, output: Path, *more: str) -> dict[str, Any]:
    options = ["--pictures", str(pictures), "--output", str(output), "--detector", "world", "-n", "2"]
    geneval.main([*options, "--device", "cpu", *more])
    return dict(json.loads((output / "results.json").read_text()))


def test_pictures_that_show_what_was_asked_for_pass(pictures: Path, tmp_path: Path) -> None:
    results = run(pictures, tmp_path)
    assert results["scores"] == dict.fromkeys(["overall", *TAGS], 1.0)
    assert results["counts"] == {"expected": 16, "scored": 16} and not results["partial"]
    assert results["protocol"] == "other prompts, 2 pictures a prompt, detector world"
    assert results["details"]["intervals_95"]["overall"] == [1.0, 1.0]
    page = (tmp_path / "page.html").read_text()
    assert page.count('<figure class="passed">') == 16 and page.count("<rect") >= 16


def test_a_wrong_picture_fails_alone_and_says_why(own: Path, tmp_path: Path) -> None:
    empty = Image.new("RGB", (32, 32), (120, 120, 120))
    empty.save(own / "00002" / "samples" / "0001.png")  # counting, one of four pictures
    results = run(own, tmp_path)
    assert results["scores"]["counting"] == 0.75
    assert results["scores"]["overall"] == pytest.approx((5 + 0.75) / 6)
    (failed,) = [
        one
        for one in map(json.loads, (tmp_path / "verdicts.jsonl").read_text().splitlines())
        if not one["correct"]
    ]
    assert failed["tag"] == "counting" and "found 0" in failed["reason"]
    page = (tmp_path / "page.html").read_text()
    assert page.count('<figure class="failed">') == 1 and "asked for, 0 found" in page
    low, high = results["details"]["intervals_95"]["overall"]
    assert low < results["scores"]["overall"] < high


def test_a_call_that_was_stopped_looks_at_nothing_twice(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(own, tmp_path)
    looked: list[np.ndarray] = []
    detect = world.WorldDetector.detect

    def watched(self: world.WorldDetector, picture: Image.Image) -> list[Detection]:
        looked.append(np.asarray(picture))
        return detect(self, picture)

    monkeypatch.setattr(world.WorldDetector, "detect", watched)
    assert run(own, tmp_path)["scores"] == first["scores"] and not looked
    (tmp_path / "detections" / "00003" / "0001.json").write_text('{"half": ')
    run(own, tmp_path)
    assert len(looked) == 1
    other = own / "00004" / "samples" / "0000.png"
    shutil.copy(own / "00000" / "samples" / "0000.png", other)  # another picture under the same name
    run(own, tmp_path)
    assert len(looked) == 2 and np.array_equal(looked[1], np.asarray(Image.open(other)))


def test_a_detector_that_cannot_look_is_refused_before_anything_is_drawn(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(world.WorldDetector, "detect", broken)
    tiny_generator.write_generator(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(one.metadata) + "\n" for one in described_prompts(pictures)))
    call = [str(tmp_path / "model"), "--prompts", str(prompts), "--detector", "world", "--device", "cpu"]
    with pytest.raises(UserError, match="world: the detector cannot look at a blank picture: out of memory"):
        geneval.main([*call, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "pictures").exists()


def test_only_a_part_is_marked(pictures: Path, tmp_path: Path) -> None:
    results = run(pictures, tmp_path, "--limit", "3")
    assert results["partial"] and results["counts"] == {"expected": 6, "scored": 6}


def test_pictures_that_are_not_as_stated_are_refused(own: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    stated = [json.loads(path.read_text()) for path in sorted(own.glob("*/metadata.jsonl"))]
    prompts.write_text("".join(json.dumps(one) + "\n" for one in stated[::-1]))
    with pytest.raises(UserError, match=r"00000/metadata.jsonl: states another prompt"):
        run(own, tmp_path / "out", "--prompts", str(prompts))
    (own / "00001" / "samples" / "0000.png").unlink()
    with pytest.raises(UserError, match=r"00001/samples: expected 2 pictures NNNN.png \(-n\), found 1"):
        run(own, tmp_path / "out")
    shutil.copy(own / "00001" / "samples" / "0001.png", own / "00001" / "samples" / "0000.png")
    stated[0]["include"][0]["class"] = "dog"
    (own / "00000" / "metadata.jsonl").write_text(json.dumps(stated[0]))
    with pytest.raises(UserError, match="prompt 0: class: the detector world does not know 'dog'"):
        run(own, tmp_path / "out")
    (own / "00000" / "metadata.jsonl").write_text('{"prompt": "a dog"}')
    with pytest.raises(UserError, match=r"00000/metadata.jsonl: no GenEval metadata: tag"):
        run(own, tmp_path / "out")


def test_a_picture_that_cannot_be_read_is_named(own: Path, tmp_path: Path) -> None:
    (own / "00002" / "samples" / "0000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"00002/samples/0000.png: not an image"):
        run(own, tmp_path / "out")
    Image.new("RGB", (32, 24)).save(own / "00002" / "samples" / "0000.png")
    with pytest.raises(UserError, match=r"00002/samples/0000.png: .*expected \(3, S, S\)"):
        run(own, tmp_path / "out")


def test_a_torn_picture_is_named_before_any_is_looked_at(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(world.WorldDetector, "detect", lambda _, picture: looked.append(picture) or [])
    last = own / "00007" / "samples" / "0001.png"
    last.write_bytes(last.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"00007/samples/0001.png: not an image: "):
        run(own, tmp_path / "out")
    assert not looked


def test_pictures_in_which_nothing_is_found_are_counted(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = Image.new("RGB", (32, 32), (120, 120, 120))
    for count, worth_a_line in ((3, False), (16, True)):
        for path in [*own.glob("*/samples/*.png")][:count]:
            blank.save(path)
        results = run(own, tmp_path)
        assert results["details"]["pictures_without_objects"] == count
        said = capsys.readouterr().out
        assert (f"nothing at all was found in {count} of 16 pictures" in said) == worth_a_line


def test_what_a_generator_draws_is_judged(pictures: Path, tmp_path: Path) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(one.metadata) + "\n" for one in described_prompts(pictures)))
    options = [
        "--prompts",
        str(prompts),
        "--detector",
        "world",
        "-n",
        "2",
        "--cfg-scale",
        "1",
        "--device",
        "cpu",
    ]
    geneval.main([str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--limit", "4", *options])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["counts"]["scored"] == 8 and results["settings"]["drawing"]["sampling"]["cfg_scale"] == 1
    assert results["model"]["weights_sha256"]
    # Prompts keep their numbers, and the pictures can be judged by themselves.
    drawn = [one.number for one in described_prompts(tmp_path / "out" / "pictures")]
    assert drawn == [0, 2, 4, 6]
    again = run(tmp_path / "out" / "pictures", tmp_path / "again")
    assert again["scores"] == results["scores"] and again["partial"]


def test_a_trial_is_the_beginning_of_the_whole_run(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(one.metadata) + "\n" for one in described_prompts(pictures)))
    fixed = ["--prompts", str(prompts), "--detector", "world", "--cfg-scale", "1", "--device", "cpu"]
    call = [str(tmp_path / "model"), "--output", str(tmp_path / "out"), *fixed]
    geneval.main([*call, "--limit", "3", "-n", "1"])
    drawn = {path: path.read_bytes() for path in (tmp_path / "out" / "pictures").glob("*/samples/*.png")}
    found = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "detections").glob("*/*.json")}
    assert len(drawn) == len(found) == 3
    geneval.main([*call, "-n", "2", "--batch-size", "4"])
    said = capsys.readouterr().out
    assert "13 pictures drawn, 3 were there" in said
    assert "pictures of several calls: 3 in batches of 3, 13 in batches of 4; roundings differ" in said
    assert all(path.read_bytes() == content for path, content in drawn.items())
    assert all(path.stat().st_mtime_ns == when for path, when in found.items())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["counts"] == {"expected": 16, "scored": 16} and not results["partial"]
    assert results["settings"]["drawing"]["batch_sizes"] == {"3": 3, "4": 13}
    geneval.main([*call, "-n", "1"])  # fewer of each: the others stay and are not judged
    assert json.loads((tmp_path / "out" / "results.json").read_text())["counts"]["scored"] == 8
    with pytest.raises(UserError, match=r"other settings \(seed: 0, now 1\)"):
        geneval.main([*call, "--seed", "1"])


def test_what_is_missing_stands_on_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="missing"):
        geneval.main(["--output", str(tmp_path), "--detector", "nobody/detector", "--clip", "nobody/clip"])
    screen = capsys.readouterr().out
    for needed in ("MODEL", "djghosh13/geneval", "nobody/detector", "nobody/clip"):
        assert needed in screen
    assert len(screen.splitlines()) < 24
    with pytest.raises(UserError, match=r"missing: .*the detector's weights: absent.pth"):
        geneval.main(["--output", str(tmp_path), "--detector", "absent.pth"])


def test_the_official_prompts_are_known_by_their_hash(photographs: Path) -> None:
    path = photographs / "geneval" / "evaluation_metadata.jsonl"
    if not path.is_file():
        pytest.skip("GenEval's prompts are not among the test data")
    prompts = read_prompts(path)
    assert sha256_of(prompts) == OFFICIAL_SHA256 != sha256_of(prompts[:-1])
    row = targets.load()["geneval"]["Qwen3-0.6B"]
    assert fingerprint([prompt.text for prompt in prompts]) == row.fingerprint_of("overall")
    assert {one.metadata["tag"] for one in spread(prompts, 12)} == set(TAGS)
    assert spread(prompts, 553) == spread(prompts, None) == prompts


def test_intervals_are_those_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    groups = {"first": rng.integers(0, 5, 80) / 4, "second": rng.integers(0, 2, 20).astype(float)}
    ours = intervals(groups)
    assert list(ours) == ["overall", "first", "second"] and ours == intervals(groups)
    references = {
        "overall": stats.bootstrap(
            tuple(groups.values()),
            lambda a, b, axis: (a.mean(axis) + b.mean(axis)) / 2,
            vectorized=True,
            method="percentile",
            rng=1,
        ),
        "first": stats.bootstrap((groups["first"],), np.mean, method="percentile", rng=1),
        "second": stats.bootstrap((groups["second"],), np.mean, method="percentile", rng=1),
    }
    for name, reference in references.items():
        assert ours[name] == pytest.approx(tuple(reference.confidence_interval), abs=0.012)
    assert intervals({"one": [1.0]}) == {"overall": (1, 1), "one": (1, 1)}


def test_two_processes_give_the_scores_of_one(pictures: Path, tmp_path: Path, pair: Any) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(one.metadata) + "\n" for one in described_prompts(pictures)))
    options = [
        "--prompts",
        str(prompts),
        "--detector",
        "world",
        "-n",
        "2",
        "--batch-size",
        "3",
        "--device",
        "cpu",
    ]
    arguments = [str(tmp_path / "model"), *options, "--cfg-scale", "1"]
    geneval.main([*arguments, "--output", str(tmp_path / "one")])
    pair.run("judge_pictures", arguments=[*arguments, "--output", str(tmp_path / "two")])
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for key in ("scores", "details", "counts", "prompt_set"):
        assert one[key] == two[key]
    for name in ("pictures", "detections"):
        files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / name).rglob("*.*"))
        assert len(files) >= 16
        for file in files:
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
