"""Folders are given to a foreign interpreter, and what it says is held against what the model in memory said."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.foreign.case import ANSWER, TALK, TEXTS, Case, picture
from benchmarks.foreign.environments import PROBES
from common.errors import UserError

OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ROUNDING = 1e-6
"""Of a resized pixel, between -1 and 1; one step of a byte is 8e-3."""


def read(python: Path, probe: str, cases: Sequence[Case], work: Path) -> list[dict[str, Any]]:
    """A row for each case, read by another version of transformers in one process."""
    folder = Path(tempfile.mkdtemp(dir=work))
    picture().save(folder / "picture.png")
    (folder / "words.json").write_text(json.dumps({"texts": TEXTS, "talks": [TALK], "length": ANSWER}))
    jobs = []
    for number, case in enumerate(cases):
        save_file(case.given, folder / f"{number}.safetensors")
        jobs.append(
            {
                "name": case.name,
                "kind": case.kind,
                "folder": str(case.folder),
                "base": case.base and str(case.base),
                "given": str(folder / f"{number}.safetensors"),
                "words": str(folder / "words.json"),
                "picture": str(folder / "picture.png"),
            }
        )
    said = _run(python, probe, jobs, folder)
    return [
        {
            "loader": f"transformers {said['version']}",
            "folder": case.name,
            **_compared(case, said["rows"][case.name], job),
        }
        for case, job in zip(cases, jobs, strict=True)
    ]


def _compared(case: Case, row: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    if "error" in row:
        return {"error": row["error"]}
    found = load_file(job["given"] + ".read.safetensors")
    differing = [name for name, value in case.words.items() if name != "answer" and row[name] != value]
    if "pixels" in case.expected and _distance(found["pixels"], case.expected["pixels"]) > ROUNDING:
        differing.append("picture")
    answers = int("answer" in case.words)
    return {
        "missing": row["missing"],
        "unexpected": row["unexpected"],
        "difference": _distance(found["logits"], case.expected["logits"]),
        "differing": differing,
        "answers": answers,
        "same": int(bool(answers) and row["answer"] == case.words["answer"]),
    }


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape else float("inf")


def serve(python: Path, probe: str, cases: Sequence[Case], work: Path) -> list[dict[str, Any]]:
    """A row for each case that vLLM has an engine for: what is talked to and what goes on from ids, one process each.

    vLLM refuses a folder with a weight missing or unexpected, so a row without an error has none.
    """
    rows: list[dict[str, Any]] = []
    for case in cases:
        if case.questions is None:
            continue
        folder = Path(tempfile.mkdtemp(dir=work))
        job = {"folder": str(case.folder), "kind": case.kind, **case.questions}
        try:
            said = _run(python, probe, job, folder)
        except UserError as error:
            rows.append({"loader": "vLLM", "folder": case.name, "error": str(error)})
            continue
        same = sum(one == other for one, other in zip(said[case.compared], case.answers, strict=True))
        row: dict[str, Any] = {
            "loader": f"vLLM {said['version']}",
            "folder": case.name,
            "missing": 0,
            "unexpected": 0,
        }
        difference = None if case.logprobs is None else _furthest(said["logprobs"], case.logprobs)
        differing = ["prompt"] if case.asked not in (None, said["asked"]) else []
        rows.append(
            {
                **row,
                "difference": difference,
                "differing": differing,
                "answers": len(case.answers),
                "same": same,
            }
        )
    return rows


def _furthest(ones: list[list[float]], others: list[list[float]]) -> float:
    """The largest difference of two tokens' log-probabilities, as far as both answers go."""
    pairs = (pair for one, other in zip(ones, others, strict=True) for pair in zip(one, other, strict=False))
    return max(abs(one - other) for one, other in pairs)


def _run(python: Path, probe: str, job: Any, folder: Path) -> Any:
    """What a probe writes.

    Raises:
        UserError: it failed; with the last line that it said.
    """
    (folder / "job.json").write_text(json.dumps(job))
    command = [str(python), str(PROBES / probe), str(folder / "job.json"), str(folder / "said.json")]
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if done.returncode or not (folder / "said.json").is_file():
        raise UserError(f"{probe}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads((folder / "said.json").read_text())
