"""A tiny model through the real lmms-eval, offline; skipped where lmms-eval is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_chat import write_chat_model

from common.errors import UserError
from evals import targets
from evals.lmms import run as lmms_run

pytest.importorskip("lmms_eval", reason="the extra `evals` is not installed")

from evals.lmms.model import VqraeChat

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_understanding_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def model(shelf: Path) -> Path:
    return write_chat_model(shelf, shelf / "model")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that the model is asked."""
    sizes: list[int] = []
    generate = VqraeChat.generate

    def count(self: VqraeChat, questions: Any) -> list[str]:
        sizes.append(len(questions))
        return generate(self, questions)

    monkeypatch.setattr(VqraeChat, "generate", count)
    return sizes


def run(model: Path, questions: Path, output: Path, *options: str) -> dict[str, Any]:
    arguments = [str(model), "--questions", str(questions), "--images", str(questions.parent / "images")]
    lmms_run.main([*arguments, "--output", str(output), "--device", "cpu", *options])
    return json.loads((output / "results.json").read_text())


def samples(output: Path) -> dict[int, list[str]]:
    lines = next((output / "samples").iterdir()).read_text().splitlines()
    return {sample["doc_id"]: sample["filtered_resps"] for sample in map(json.loads, lines)}


def test_batches_change_nothing_and_nothing_is_asked_twice(
    model: Path, shelf: Path, tmp_path: Path, asked: list[int]
) -> None:
    questions = shelf / "conversations.json"  # 12 with short answers, the last 4 without a picture
    one = run(model, questions, tmp_path / "one", "--batch-size", "1")
    assert one["counts"] == {"expected": 12, "scored": 12, "of_scores": {"conversations": 12}}
    assert one["complete"] and not one["partial"] and set(asked) == {1}
    together = run(model, questions, tmp_path / "all", "--batch-size", "5")
    assert together["scores"] == one["scores"]
    assert samples(tmp_path / "all") == samples(tmp_path / "one")
    assert together["details"]["asked_sha256"] == one["details"]["asked_sha256"]
    asked.clear()
    assert run(model, questions, tmp_path / "all")["scores"] == one["scores"]
    assert not asked, "a finished task was run again"
    limited = run(model, questions, tmp_path / "all", "--limit", "3")
    assert limited["details"]["answers_of_former_runs"] == {"conversations": 3}
    assert limited["partial"] and limited["counts"]["expected"] == 3 and not asked
    assert limited["details"]["asked_sha256"] != one["details"]["asked_sha256"]


def test_a_trial_and_then_the_whole_with_another_batch_size(
    model: Path, shelf: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    questions = shelf / "conversations.json"
    run(model, questions, tmp_path, "--limit", "3", "--batch-size", "2")
    assert "answers: 0 of former runs, 3 new" in capsys.readouterr().out
    whole = run(model, questions, tmp_path, "--batch-size", "5")
    assert 3 < sum(asked) <= 12 and "answers: 3 of former runs, 9 new" in capsys.readouterr().out
    assert whole["counts"]["scored"] == 12 and len(whole["fingerprints"]["conversations"]) == 16


def test_a_task_of_the_paper_from_its_data_to_the_table(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SEED-Bench, on made-up rows in the place of the hub's, by a model that always says A."""
    from evals.lmms import session
    from evals.lmms.documents import documents
    from evals.lmms.protocol import Dataset, DatasetDict, task_config

    DatasetDict({"test": Dataset.from_list(documents("seedbench"))}).save_to_disk(tmp_path / "data")
    held = {"dataset_path": str(tmp_path / "data"), "dataset_kwargs": {"load_from_disk": True}}
    monkeypatch.setattr(session, "task_config", lambda task: {**task_config(task), **held})
    monkeypatch.setattr(VqraeChat, "generate", lambda self, questions: ["A"] * len(questions))
    monkeypatch.setattr(lmms_run, "needs", lambda args: [])
    row = "Vicuna-7B 256 px"
    arguments = [str(model), "--tasks", "seedbench", "--device", "cpu", "--paper-row", row]
    lmms_run.main([*arguments, "--output", str(tmp_path / "out")])
    results, said = json.loads((tmp_path / "out" / "results.json").read_text()), capsys.readouterr().out
    assert results["scores"] == {"seedbench": 25.0}  # a quarter of the right answers are A
    assert results["counts"] == {"expected": 20, "scored": 20, "of_scores": {"seedbench": 20}}
    assert results["fingerprints"] == {
        "seedbench": targets.load()["understanding"][row].fingerprint_of("seedbench")
    }
    assert "3,757 questions about videos were not asked" in said and "20 samples, Table 3 has 14233" in said


def test_an_interrupted_run_goes_on(
    model: Path, shelf: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = shelf / "conversations.json"
    counted = VqraeChat.generate

    def stop(self: VqraeChat, questions: Any) -> list[str]:
        if sum(asked) >= 8:
            raise RuntimeError("the device is gone")
        return counted(self, questions)

    monkeypatch.setattr(VqraeChat, "generate", stop)
    with pytest.raises(UserError, match="conversations: the device is gone"):
        run(model, questions, tmp_path, "--batch-size", "4")
    assert not (tmp_path / "results.json").exists()
    monkeypatch.setattr(VqraeChat, "generate", counted)
    finished = sum(asked)
    asked.clear()
    assert run(model, questions, tmp_path, "--batch-size", "4")["counts"]["scored"] == 12
    assert finished == 8 and 0 < sum(asked) <= 4


def test_photographs_and_a_right_answer(
    model: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions about real photographs, to a model that always says 'no': its score is the share of those answers."""
    monkeypatch.setattr(VqraeChat, "generate", lambda self, questions: ["No."] * len(questions))
    folder = photographs / "coco128"
    arguments = [str(model), "--questions", str(folder / "llava_conversations.json"), "--device", "cpu"]
    lmms_run.main([*arguments, "--output", str(tmp_path), "--limit", "40"])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = [json.loads(line) for line in next((tmp_path / "questions").glob("*.jsonl")).open()][:40]
    no = sum(row["answer"] == "no" for row in rows)
    assert 0 < no < 40 and results["scores"] == {"llava_conversations": 100 * no / 40} and results["partial"]


def test_a_task_without_a_score_is_a_failure(
    model: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.lmms import questions as lmms_questions

    monkeypatch.setattr(lmms_questions, "percentage", lambda hits: float("nan"))
    with pytest.raises(UserError, match="ended without a score"):
        run(model, shelf / "conversations.json", tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_unknown_tasks_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tasks: poppe: lmms-eval has no task of that name"):
        lmms_run.main([str(model), "--tasks", "poppe", "--output", str(tmp_path), "--device", "cpu"])


def test_the_papers_tasks_are_those_of_the_installed_version() -> None:
    from evals.lmms.protocol import known_tasks
    from evals.lmms.tasks import PAPER_TASKS

    for name, task in PAPER_TASKS.items():
        config = known_tasks()._get_config(name)
        assert config["dataset_path"] == task.dataset
        assert config["output_type"] == "generate_until"
        assert task.metric in {metric["metric"] for metric in config["metric_list"]}
