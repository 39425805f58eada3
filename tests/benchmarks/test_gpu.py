"""The command for a GPU machine: what it does with parts that fail, hang or do not fit, and that each part runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_parts import (
    checks_tokenizer,
    generator_step,
    hot_paths,
    report,
    run,
    timing,
    tokenizer_step,
    understanding_step,
)
from benchmarks.gpu_parts.part import Request
from benchmarks.gpu_parts.schedule import ROOT, Outcome, Part, run_part, run_parts

PLANTED = """
import argparse, json, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--result")
parser.add_argument("--shrink", type=int)
parser.add_argument("deed")
options = parser.parse_args()
if options.deed == "hang":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
if options.deed == "crash":
    print("Warning: nothing", file=sys.stderr)
    raise ValueError("two shapes\\ndo not fit")
if options.deed == "full" and options.shrink < 4:
    json.dump({"error": "OutOfMemoryError: tried to allocate"}, open(options.result, "w"))
    sys.exit(3)
if options.deed == "vanish":
    sys.exit(0)
rows = [{"what": "it", "batch": 8 // options.shrink}]
json.dump({"device": {"name": "here"}, "rows": rows}, open(options.result, "w"))
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`planted(deed, **fields)`: a part that does so."""
    (tmp_path / "planted_part.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def part(deed: str, **fields: Any) -> Part:
        settings = {"needs": 0.0, "limit": 30.0, "rows": True, "words": (deed,), **fields}
        return Part(name=deed, module="planted_part", **settings)

    return part


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_a_part_that_fails_is_named_and_the_others_go_on(planted: Any, tmp_path: Path) -> None:
    parts = [planted("crash"), planted("vanish"), planted("work")]
    crash, vanish, work = run_parts(parts, tmp_path, soon())
    assert (crash.state, crash.reason) == ("failed", "ValueError: two shapes")
    assert (vanish.state, vanish.reason) == ("failed", "exit status 0, and no result")
    assert work.state == "measured" and work.rows == [{"what": "it", "batch": 8}]
    assert work.device == {"name": "here"}


def test_a_part_that_hangs_is_ended_with_all_that_it_started(planted: Any, tmp_path: Path) -> None:
    outcome = run_part(planted("hang", limit=2.0), tmp_path, soon())
    assert (outcome.state, outcome.reason) == ("failed", "not done after 2 s")
    assert is_gone(tmp_path / "hang.txt")


def test_an_interrupt_ends_what_runs(planted: Any, tmp_path: Path) -> None:
    outcomes = run_parts([planted("work"), planted("hang"), planted("vanish")], tmp_path, soon())
    assert next(outcomes).name == "work"
    printed = tmp_path / "hang.txt"
    while not (printed.exists() and printed.read_text().strip()):
        time.sleep(0.1)
    outcomes.close()  # what an exception in the loop over them does
    assert is_gone(printed) and not (tmp_path / "vanish.txt").exists()


def is_gone(printed: Path) -> bool:
    """Whether the process of that id ends soon: a signal takes a moment where many processes want a core."""
    status, end = Path("/proc", printed.read_text().strip(), "stat"), soon(20)
    while time.monotonic() < end:
        try:
            if status.read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_batch_that_does_not_fit_is_halved(planted: Any, tmp_path: Path) -> None:
    outcome = run_part(planted("full"), tmp_path, soon())
    assert outcome.state == "measured"
    assert outcome.rows == [{"what": "it", "batch": 2, "note": "out of memory with 2 times the batch"}]


def test_a_part_is_skipped_when_the_time_is_too_short(planted: Any, tmp_path: Path) -> None:
    skipped, work = run_parts([planted("hang", needs=50), planted("work")], tmp_path, soon(20))
    assert skipped.state == "skipped" and skipped.reason.startswith("needs about 50 s, ")
    assert work.state == "measured"


def test_what_is_printed_counts_where_there_are_no_rows(planted: Any, tmp_path: Path) -> None:
    part = Part(name="said", module="this", needs=0, limit=30)
    outcome = run_part(part, tmp_path, soon())
    assert outcome.state == "measured" and outcome.lines[0].startswith("The Zen of Python")


def test_the_table_shows_what_was_measured_failed_and_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"what": "a step", "batch": 32, "unit": "images", "per_second": 412.25, "ms": 77.6}
    row |= {"mfu": 0.4321, "memory_gib": 61.2, "waiting": 0.055, "flops": 1e12, "note": "random"}
    outcomes = [
        Outcome("steps", "measured", rows=[row]),
        Outcome("broken", "failed", "RuntimeError: no [kernel]", rows=[{"what": "it", "failed": "differs"}]),
        Outcome("late", "skipped", "needs about 60 s, 12 s are left"),
        Outcome("said", "measured", lines=["[404, 5.0]"]),
    ]
    facts = {"device": {"name": "One GPU"}, "versions": {"torch": "2.11.0"}}
    report.print_table(facts, outcomes)
    shown = capsys.readouterr().out
    for text in ("One GPU, torch 2.11.0", "412.2 images", "77.6", "43.2%", "61.2", "5.5%", "[404, 5.0]"):
        assert text in shown
    for text in ("failed: differs", "RuntimeError: no [kernel]", "skipped", "needs about 60 s"):
        assert text in shown


@pytest.mark.parametrize(("deed", "status"), [("work", False), ("crash", True)])
def test_the_whole_command(
    deed: str, status: bool, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table, JSON and exit status: not 0 if a part failed."""
    monkeypatch.setattr(run, "PARTS", (planted(deed, check_words=(deed,)),))
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--check", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code is status
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["command"].startswith("python benchmarks/gpu.py --check --output ")
    assert {"python", "torch", "cuda"} <= set(results["versions"])
    (part,) = results["parts"]
    assert part["state"] == ("failed" if status else "measured")
    assert results["device"] == ({} if status else {"name": "here"})


def test_overlapping_streams_count_once() -> None:
    def event(cat: str, ts: float, dur: float) -> dict[str, Any]:
        return {"cat": cat, "ts": ts, "dur": dur, "name": "x"}

    events = [
        event("kernel", 0, 100),
        event("kernel", 50, 100),  # another stream
        event("gpu_memcpy", 60, 10),
        event("gpu_user_annotation", 0, 1000),  # spans what it names
        event("cuda_runtime", 200, 500),  # on the host
        event("kernel", 300, 50),
        {"name": "process_name", "ph": "M"},
    ]
    assert timing.union_seconds(events) == pytest.approx(200e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "variant"),
    [
        (hot_paths.measure, ""),
        (tokenizer_step.measure, "stage1"),
        (tokenizer_step.measure, "stage2"),
        (generator_step.measure, ""),
        (understanding_step.measure, ""),
    ],
    ids=["hot_paths", "tokenizer_stage1", "tokenizer_stage2", "generator", "understanding"],
)
def test_each_part_runs_at_tiny_size(measure: Any, variant: str) -> None:
    rows = measure(Request(variant, check=True))
    assert rows and not [row["failed"] for row in rows if "failed" in row]
    for row in rows if measure is not hot_paths.measure else []:
        assert row["ms"] > 0 and row["per_second"] > 0 and row["flops"] > 0 and row["batch"] == 2


def test_a_difference_on_the_device_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    correct, calls = checks_tokenizer.nearest_codes, iter((0, 1))
    monkeypatch.setattr(
        checks_tokenizer, "nearest_codes", lambda v, t: (correct(v, t) + next(calls)) % len(t)
    )
    row = hot_paths.result(checks_tokenizer.codes_of_random_vectors, torch.device("cpu"), small=True)
    assert "256 codes differ" in row["failed"]


def test_the_trainers_tests_that_it_runs_are_there() -> None:
    for test in run.TRAINERS:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "error: no GPU: torch"),
        (["--parts", "generator,decoder"], "error: --parts: 'decoder' is none of hot_paths, "),
    ],
)
def test_what_cannot_be_run_is_one_line(words: list[str], complaint: str, tmp_path: Path) -> None:
    """From another folder, as a script: nothing of ours is installed there but through the file's own place."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *words], cwd=tmp_path, capture_output=True, text=True
    )
    if not words and "no GPU" not in done.stderr:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 2 and done.stderr.startswith(complaint) and done.stderr.count("\n") == 1
