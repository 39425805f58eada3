"""What the table of foreign loaders would say: nothing where a folder is sound, and what is wrong where it is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.foreign import environments, loaders, read_transformers
from benchmarks.foreign.case import TALK, Case, picture
from benchmarks.foreign.folders import SIGLIP, encoder_case, generator_case, llava_cases
from benchmarks.foreign.text_tokenizers import llama_kind
from benchmarks.foreign_loaders import missed, print_rows
from common.errors import UserError
from common.models.encoder_loading import build_encoder
from understanding.chat.decoding import Decoding
from understanding.chat.model import load


def read_here(cases: list[Case], work: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The same, by this interpreter: another process costs more than all of these tests."""

    def run(python: Path, probe: str, jobs: Any, folder: Path) -> dict[str, Any]:
        return {"version": "here", "rows": {job["name"]: read_transformers.read(job) for job in jobs}}

    monkeypatch.setattr(loaders, "_run", run)
    return loaders.read(Path(sys.executable), "read_transformers.py", cases, work)


def test_sound_folders_and_damaged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        cases = [
            encoder_case(tmp_path / "encoder", "encoder", build_encoder(SIGLIP)),
            generator_case(tmp_path / "generator"),
        ]
    rows = read_here(cases, tmp_path, monkeypatch)
    assert [missed(row) for row in rows] == [None, None] and all(row["difference"] < 1e-5 for row in rows)

    weights = tmp_path / "encoder" / "model.safetensors"
    state = load_file(weights)
    lost = state.pop("vision_model.post_layernorm.bias")
    save_file({**state, "vision_model.stranger": lost}, weights, metadata={"format": "pt"})
    config = tmp_path / "generator" / "config.json"
    stated = json.loads(config.read_text())
    stated["rope_parameters"]["rope_theta"] = stated["rope_theta"] = 1e4
    config.write_text(json.dumps(stated))
    rows = read_here(cases, tmp_path, monkeypatch)
    assert missed(rows[0]) == "1 weights missing, 1 unexpected"
    assert "logits differ" in str(missed(rows[1]))


def test_engines_have_to_read_the_prompt_of_the_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt with one `<s>` more has other log-probabilities, though often the same answer."""
    torch.manual_seed(0)
    with torch.no_grad():
        (case,) = llava_cases(tmp_path, "llama", llama_kind(), "vicuna_v1")
        row = read_here([case], tmp_path, monkeypatch)[0]
    assert missed(row) is None
    ids = list(load(case.folder).prompt([picture()], TALK, Decoding(8)).ids)
    assert case.asked == [ids] and ids.count(1) == 1

    said = {"version": "here", "asked": [ids], "ids": case.answers, "logprobs": case.logprobs}
    monkeypatch.setattr(loaders, "_run", lambda *_: said)
    assert missed(loaders.serve(Path(sys.executable), "", [case], tmp_path)[0]) is None
    said["asked"] = [[1, *ids]]
    assert missed(loaders.serve(Path(sys.executable), "", [case], tmp_path)[0]) == "another prompt"


def test_rows_that_miss_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    sound = {"loader": "it", "folder": "F", "missing": 0, "unexpected": 0, "difference": 1e-6}
    sound |= {"differing": [], "answers": 200, "same": 198}
    faulty = [{"same": 197}, {"difference": float("nan")}, {"differing": ["ids"]}, {"error": "no such class"}]
    assert missed(sound) is None
    assert all(missed({**sound, **change}) for change in faulty)
    print_rows([sound, {"loader": "it", "folder": "G", "error": "no such class"}])
    assert "| it | F | 0 | 0 | 1.0e-06 | 198 of 200 |" in capsys.readouterr().out


def test_what_a_machine_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="uv: needed to make environments"):
        environments.python_of(environments.FOREIGN, tmp_path)
    (tmp_path / "uv").write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    (tmp_path / "uv").chmod(0o755)
    with pytest.raises(UserError, match="foreign environment: venv failed: no such package"):
        environments.python_of(environments.FOREIGN, tmp_path)
