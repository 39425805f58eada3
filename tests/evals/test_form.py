"""The common form of the evaluations: what a result holds, when it is refused, and what it is compared with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from evals import preflight, result_table, results, targets
from evals.reconstruction import run as reconstruction
from evals.reconstruction.report import PAPER_ROWS
from evals.results import Results

REPO = Path(__file__).parents[2]
WRAPPERS = sorted((REPO / "evals").glob("run_*.sh"))


def make(**changes: Any) -> Results:
    given = {
        "benchmark": "geneval",
        "protocol": "official",
        "scores": {"overall": 0.5, "ours_alone": 1.0},
        "expected": 2212,
        "scored": 2212,
        "partial": False,
        "settings": {"seed": 0},
        "model": {"source": "m", "weights_sha256": "0"},
        "fingerprints": targets.load()["geneval"]["Qwen3-0.6B"].fingerprints,
        "seconds": 1.0,
        "processes": 1,
    }
    return Results(**{**given, **changes})


def test_a_result_tells_what_is_needed_to_repeat_it(tmp_path: Path) -> None:
    result_table.finish(tmp_path, make(prompt_set={"source": "p", "sha256": "1"}))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["scores"] == {"overall": 0.5, "ours_alone": 1.0} and written["complete"] is True
    assert written["counts"] == {"expected": 2212, "scored": 2212}
    assert written["prompt_set"]["sha256"] == "1" and written["versions"]["torch"]
    assert written["commit"] is None or len(written["commit"].removesuffix("-dirty")) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("scored", [0, 2211])
def test_an_incomplete_result_is_written_and_refused(scored: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"incomplete: {scored} of 2212"):
        result_table.finish(tmp_path, make(scored=scored))
    assert json.loads((tmp_path / "results.json").read_text())["complete"] is False


def test_nothing_at_all_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="incomplete"):
        result_table.finish(tmp_path, make(expected=0, scored=0))


def test_a_limited_result_is_accepted_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result_table.finish(tmp_path, make(partial=True, expected=3, scored=3))
    assert json.loads((tmp_path / "results.json").read_text())["partial"] is True
    assert "PARTIAL" in capsys.readouterr().out


def test_a_score_that_is_no_number_leaves_the_former_result(tmp_path: Path) -> None:
    results.write(tmp_path, make())
    with pytest.raises(UserError, match="overall: nan"):
        results.write(tmp_path, make(scores={"overall": float("nan")}))
    assert json.loads((tmp_path / "results.json").read_text())["scores"]["overall"] == 0.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"protocol": "world"}, "'world'"),
        ({"expected": 2200, "scored": 2200}, "2200 samples, Table 4 has 2212"),
        ({"scored": 2211}, "2211 of 2212"),
        ({"partial": True}, "--limit"),
    ],
)
def test_protocol_and_samples_decide_the_comparison(changes: dict[str, Any], reason: str | None) -> None:
    overall, other = result_table.compare(make(**changes))
    assert (overall.paper, overall.ours) == (0.76, 0.5) and overall.difference == pytest.approx(-0.26)
    assert overall.comparable is (reason is None)
    assert reason is None or reason in str(overall.why_not)
    assert (other.paper, other.difference, other.comparable, other.why_not) == (None, None, False, None)


def test_each_score_may_have_a_set_of_its_own() -> None:
    ours = make(
        benchmark="understanding",
        protocol="lmms-eval",
        paper_row="Vicuna-7B 256 px",
        scores={"pope": 84.4, "gqa": 60.0},
        expected=21_578,
        scored=21_578,
        score_counts={"pope": 9000, "gqa": 12_500},
        fingerprints=targets.load()["understanding"]["Vicuna-7B 256 px"].fingerprints,
    )
    pope, gqa = result_table.compare(ours)
    assert pope.comparable and pope.difference == 0
    assert not gqa.comparable and "12500 samples" in str(gqa.why_not)


@pytest.mark.parametrize("asked", [None, "0123456789abcdef", {"pope": "0123456789abcdef"}, {}])
def test_other_prompts_are_not_comparable(asked: Any) -> None:
    row = targets.load()["understanding"]["Vicuna-7B 256 px"]
    ours = make(
        benchmark="understanding",
        protocol="lmms-eval",
        paper_row="Vicuna-7B 256 px",
        scores={"pope": 84.4},
        expected=9000,
        scored=9000,
        fingerprints=asked,
    )
    (pope,) = result_table.compare(ours)
    assert not pope.comparable and str(row.fingerprint_of("pope")) in str(pope.why_not)


def test_every_target_that_has_prompts_has_their_fingerprint() -> None:
    for benchmark, rows in targets.load().items():
        for name, row in rows.items():
            stated = {row.fingerprint_of(score) for score in row.scores}
            assert (None in stated) is (benchmark == "reconstruction"), (benchmark, name)
            assert all(re.fullmatch("[0-9a-f]{16}", one) for one in stated - {None})


def test_a_table_of_several_rows_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result_table.finish(tmp_path, make(benchmark="understanding", protocol="lmms-eval", scores={"pope": 1.0}))
    assert "--paper-row" in capsys.readouterr().out
    result_table.finish(tmp_path, make(benchmark="another"))
    assert "--paper-row" not in capsys.readouterr().out


def test_targets_are_those_of_the_papers_tables() -> None:
    """Sums over each row of Tables 2, 3 and 4, worked out apart from the file."""
    sums = {
        (benchmark, name): round(sum(target.scores.values()), 3)
        for benchmark, rows in targets.load().items()
        for name, target in rows.items()
    }
    assert sums == {
        ("reconstruction", "SigLIP2"): 24.302,
        ("reconstruction", "InternViT"): 25.054,
        ("understanding", "Vicuna-7B 256 px"): 1853.0,
        ("understanding", "Vicuna-13B 256 px"): 1908.7,
        ("understanding", "Vicuna-7B 512 px"): 1924.4,
        ("understanding", "Vicuna-13B 512 px"): 1992.4,
        ("understanding", "InternViT + Qwen2.5-7B"): 2226.4,
        ("geneval", "Qwen3-0.6B"): 5.29,
        ("dpg_bench", "Qwen3-0.6B"): 541.12,
    }
    assert set(PAPER_ROWS.values()) == set(targets.rows("reconstruction"))
    for target in targets.load()["understanding"].values():
        assert not isinstance(target.samples, dict) or set(target.samples) == set(target.scores)


def test_preflight_names_all_that_is_missing_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "hub_answers", lambda: False)
    monkeypatch.setattr(preflight, "answers", lambda address: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    needs = [
        preflight.package("json", "never shown"),
        preflight.package("no_such_package", "pip install it"),
        preflight.hub_files("owner/absent", ["model.safetensors"], "the detector", "--detector"),
        preflight.hub_files(str(tmp_path), ["config.json"], "a local copy", "--detector"),
        preflight.torch_hub_file("https://host/name.pth", "a network", "set --weights"),
    ]
    with pytest.raises(UserError, match=r"no_such_package.*owner/absent.*name\.pth"):
        preflight.require("geneval", needs)
    shown = capsys.readouterr().out
    assert "hf download owner/absent model.safetensors" in shown and "pip install it" in shown
    assert "https://host/name.pth" in shown and "never shown" not in shown and len(shown.splitlines()) < 24


def test_preflight_is_content_with_what_is_there_or_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "hub_answers", lambda: True)
    monkeypatch.setattr(preflight, "answers", lambda address: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "name.pth").touch()
    needs = [
        preflight.hub_files("owner/online", ["model.safetensors"], "a detector", "--detector"),
        preflight.torch_hub_file("https://host/name.pth", "a network", "set --weights"),
        preflight.file(tmp_path, "a folder", "make it"),
    ]
    preflight.require("geneval", needs)


def test_preflight_does_not_wait_for_a_silent_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "SECONDS", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: time.sleep(3))
    started = time.monotonic()
    assert preflight.answers("https://silent.invalid") is False
    assert time.monotonic() - started < 2


def test_downloads_are_those_that_the_loaders_make() -> None:
    from tokenizer import pretrained

    assert reconstruction.VGG_FILE == pretrained.VGG_FILE
    assert reconstruction.INCEPTION_FILE == pretrained.INCEPTION_FILE


def run(
    script: Path, *arguments: str, cwd: str = "/", **environment: str
) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run(
        ["bash", str(script), *arguments], cwd=cwd, env=variables, capture_output=True, text=True
    )


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: path.stem)
def test_every_wrapper_has_the_form(wrapper: Path) -> None:
    """Help from any folder, also for several processes, in which no launcher is started for it."""
    shown = run(wrapper, "--help", GPUS="2")
    assert shown.returncode == 0, shown.stderr
    assert all(word in shown.stdout for word in ("MODEL", "--limit", "--output"))
    assert wrapper.name in shown.stdout.splitlines()[0]


def test_launcher_passes_arguments_and_adds_the_default_output(tmp_path: Path) -> None:
    echo = tmp_path / "python"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    wrapper = REPO / "evals" / "run_reconstruction.sh"
    module = ["-m", "evals.reconstruction.run"]
    default = run(wrapper, "a model", "--size", "8", PYTHON=str(echo), GPUS="1").stdout.splitlines()
    assert default == [*module, "a model", "--size", "8", "--output", f"{REPO}/runs/reconstruction"]
    for chosen in (["--output", "here"], ["--output=here"]):
        assert run(wrapper, "m", *chosen, PYTHON=str(echo)).stdout.splitlines() == [*module, "m", *chosen]
    several = run(wrapper, "m", PYTHON=str(echo), GPUS="8").stdout.splitlines()
    assert several[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "8"]
    assert several[5:8] == [*module, "m"]
    refused = run(wrapper, "m", PYTHON=str(echo), GPUS="all")
    assert refused.returncode == 2 and "GPUS" in refused.stderr
