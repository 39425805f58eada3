"""The launcher of VLMEvalKit, against a stub of it: what is registered, how run.py is called, and what failure is.

The stub has the names that the launcher touches and nothing of what is behind them. The real package is not on the
package index; how the launcher was run against it stands in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from tiny_chat import write_chat_model

from common.errors import UserError
from evals import targets
from evals.vlmeval import report as vlmeval_report
from evals.vlmeval import run as vlmeval_run
from evals.vlmeval.cut_answers import CutAnswers

REPO = Path(__file__).parents[2]
STUB = {
    "vlmeval/__init__.py": "",
    "vlmeval/config.py": "supported_VLM = {}",
    "vlmeval/vlm/__init__.py": "class LLaVA: pass\nclass InternVLChat: pass",
    "vlmeval/vlm/base.py": "class BaseModel:\n    def __init__(self): pass",
    "vlmeval/vlm/internvl/__init__.py": "",
    "vlmeval/vlm/internvl/utils.py": "reorganize_prompt = None",
    "vlmeval/dataset.py": """
import pandas
class Dataset:
    def __init__(self, name): self.data = pandas.DataFrame({"question": ["Is it red?", "Is it green?", "Is it blue?"]})
def build_dataset(name, **options): return Dataset(name)
""",
    "vlmeval/smp.py": """
import json
def collect_run_benchmark_report(run):
    found = json.loads((run / "status.json").read_text())["datasets"]
    return [dict(benchmark=n, infer_total=e["asked"], infer_failed=0) for n, e in found.items()]
""",
    "run.py": """
import json, sys
from pathlib import Path
from vlmeval.config import supported_VLM
from vlmeval.dataset import build_dataset
arguments = sys.argv[1:]
given = lambda name: arguments[arguments.index(name) + 1]
run = Path(given("--work-dir")) / given("--model") / "T1"
run.mkdir(parents=True, exist_ok=True)
model, found, said = supported_VLM[given("--model")](), {}, []
for name in arguments[1 : arguments.index("--model")]:
    dataset = build_dataset(name)
    message = [{"type": "image", "value": PICTURE}, {"type": "text", "value": ""}]
    for question in dataset.data["question"]:
        message[1]["value"] = question
        said.append(model.generate_inner(message, name))
    metrics = {"split=Overall|Overall": 87.5, "split=random|Overall": 1.0, "split=Overall|acc": 2.0}
    found[name] = {"metrics": metrics, "asked": len(dataset.data)}
(run / "status.json").write_text(json.dumps({"datasets": found, "argv": arguments, "said": said}))
""",
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a picture, and the stub."""
    folder = tiny.write_understanding_shelf(tmp_path_factory.mktemp("shelf"))
    write_chat_model(folder, folder / "model")
    for name, text in STUB.items():
        path = folder / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"PICTURE = {str(folder / 'images' / '000.png')!r}\n{text}")
    return folder


def launch(shelf: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "evals.vlmeval.run",
        shelf / "model",
        "--output",
        output,
        *options,
    ]
    environment = {**os.environ, "VLMEVALKIT": str(shelf / "kit"), "PYTHONPATH": str(REPO)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_kit_asks_our_model_and_its_scores_are_the_tables(shelf: Path, tmp_path: Path) -> None:
    done = launch(shelf, tmp_path, "--data", "POPE", "--limit", "2", "--paper-row", "Vicuna-7B 256 px")
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert results["scores"] == {"pope": 87.5} and results["protocol"] == "VLMEvalKit" and results["partial"]
    assert results["counts"] == {"expected": 2, "scored": 2, "of_scores": {"pope": 2}}
    asked_text = hashlib.sha256(b"question\nIs it red?\nIs it green?\n").hexdigest()
    prompts = {"source": "POPE", "sha256": hashlib.sha256(asked_text.encode()).hexdigest()}
    assert results["prompt_set"] == prompts and results["details"]["asked_sha256"] == {"POPE": asked_text}
    status = json.loads(next(tmp_path.glob("*/T1/status.json")).read_text())
    assert status["argv"][-3:] == ["--judge", "exact_matching", "--reuse"]

    from common.data.images import open_image
    from understanding.chat.model import load

    picture = open_image(shelf / "images" / "000.png")
    chat = load(shelf / "model")
    asked = [([picture], [{"role": "user", "content": text}]) for text in ("Is it red?", "Is it green?")]
    assert status["said"] == [chat.answer([one], max_new_tokens=1024)[0] for one in asked]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"error_message": "KeyError: 'answer'"}, "KeyError: 'answer'"),
        ({"skip_reason": "invalid_dataset"}, "invalid_dataset"),
        ({"metrics": {}}, "ended without a score"),
        (None, "ended without a score"),
    ],
)
def test_what_run_py_ends_well_with_is_a_failure(
    entry: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"benchmark": "POPE", "infer_total": 2, "infer_failed": 0}]
    monkeypatch.setitem(
        sys.modules, "vlmeval.smp", SimpleNamespace(collect_run_benchmark_report=lambda run: rows)
    )
    good = {"metrics": {"split=Overall|Overall": 87.5}}
    run = tmp_path / "m" / "T1"
    run.mkdir(parents=True)
    (run / "status.json").write_text(
        json.dumps({"datasets": {"POPE": good, **({"Bad": entry} if entry is not None else {})}})
    )
    names = ["POPE", "Bad"]
    more: dict[str, Any] = {"cut": {"POPE": 1}, "fingerprints": {}}
    more |= {"model": {}, "settings": {}, "paper_row": None, "seconds": 1.0}
    both, three = (vlmeval_report.Asked(found=number, asked=number, sha256="") for number in (2, 3))
    with pytest.raises(UserError, match=f"VLMEvalKit: Bad: {reason}"):
        vlmeval_report.report(tmp_path, names, dict.fromkeys(names, both), run, **more)
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(UserError, match="incomplete: 2 of 3"):
        vlmeval_report.report(tmp_path, ["POPE"], {"POPE": three}, run, **more)


@pytest.mark.parametrize(
    ("data", "metrics", "score"),
    [
        ("MME", {"perception": 1500.5, "reasoning": 300.0}, {"mme_perception": 1500.5}),
        ("MMBench_DEV_EN", {"split=dev|Overall": 0.75, "split=dev|AR": 0.5}, {"mmbench": 75.0}),
        ("AI2D_TEST", {"split=none|Overall": 0.5}, {"ai2d": 50.0}),
        ("MMMU_DEV_VAL", {"split=dev|Overall": 0.1, "split=validation|Overall": 0.25}, {"mmmu": 25.0}),
        ("TextVQA_VAL", {"Overall": 58.5}, {"textvqa": 58.5}),
        ("Mine", {"Overall": 3}, {"Mine/Overall": 3.0}),
    ],
)
def test_scores_have_the_units_and_names_of_the_table(
    data: str, metrics: dict[str, float], score: dict[str, float]
) -> None:
    assert vlmeval_report.read_scores(data, metrics) == score
    if data != "Mine":
        with pytest.raises(UserError, match=f"{data}: expected one metric"):
            vlmeval_report.read_scores(data, {"split=none|AR": 0.5})


def test_all_of_table_3_is_asked_for() -> None:
    scores = {data.score for data in vlmeval_report.PAPER_DATA.values()}
    table = targets.load()["understanding"]
    assert scores == set(table["Vicuna-7B 256 px"].scores)
    assert scores - {"gqa"} == set(table["InternViT + Qwen2.5-7B"].scores)


@pytest.mark.parametrize("prompts", [{"POPE": "d6d5bba68ac70828"}, {"POPE": "0123456789abcdef"}, {}])
def test_only_the_same_prompts_are_comparable_and_cut_answers_are_said(
    prompts: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"benchmark": "POPE", "infer_total": 2, "infer_failed": 0}]
    monkeypatch.setitem(
        sys.modules, "vlmeval.smp", SimpleNamespace(collect_run_benchmark_report=lambda run: rows)
    )
    cut = CutAnswers(tmp_path / "cut_answers")
    for question in ("one", "one", "two"):  # the first one was asked again
        cut.add([{"type": "text", "value": question}], "POPE")
    good = {"datasets": {"POPE": {"metrics": {"split=Overall|Overall": 87.5}}}}
    (tmp_path / "status.json").write_text(json.dumps(good))
    vlmeval_report.report(
        tmp_path,
        ["POPE"],
        {"POPE": vlmeval_report.Asked(found=2, asked=2, sha256="")},
        tmp_path,
        cut={"POPE": cut.count("POPE")},
        fingerprints=prompts,
        model={},
        settings={},
        paper_row="InternViT + Qwen2.5-7B",
        seconds=1.0,
    )
    said = capsys.readouterr().out
    assert "POPE: 2 answers were cut off" in said
    assert ("Not comparable" in said) is (prompts != {"POPE": "d6d5bba68ac70828"})
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["details"]["cut_answers"] == {"POPE": 2}
    assert results["fingerprints"] == dict(zip(["pope"], prompts.values(), strict=False))


def test_without_the_kit_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLMEVALKIT", str(tmp_path))
    with pytest.raises(UserError, match=r"VLMEvalKit \(its run.py\)"):
        vlmeval_run.main([str(tmp_path), "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "open-compass" in said and "VLMEVALKIT=CHECKOUT" in said and "the model" in said
