"""What surrounds the code says the same everywhere: Pythons, versions, commands, what may be committed."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def hooks() -> dict[str, dict[str, Any]]:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local", "hooks of other repositories would be fetched"
    return {hook["id"]: hook for hook in repository["hooks"]}


def test_one_set_of_pythons() -> None:
    """What the workflow tests is what setup.sh takes, the package declares, and mypy reads the oldest of."""
    (job,) = read(".github/workflows/test.yml")["jobs"].values()
    tested = job["strategy"]["matrix"]["python"]
    classifiers = [
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PROJECT["classifiers"]
    ]
    assert [match[1] for match in classifiers if match] == tested
    assert PROJECT["requires-python"] == f">={tested[0]}"
    setup = (ROOT / "scripts/setup.sh").read_text(encoding="utf-8")
    assert str(tuple(tuple(int(part) for part in version.split(".")) for version in tested)) in setup
    assert all(f" python{version} " in setup for version in tested)
    everything = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert everything["tool"]["mypy"]["python_version"] == tested[0]


CHECKED_BY_THEIR_SETTINGS = {
    "common/training/command.py": {"--gpus", "--local_rank"},  # `planned_ranks`; the launcher's own
    "generation/drawing.py": {"--seed", "--tokens"},  # `Drawing`
    "generation/extract_codes.py": {"--batch-size", "--shard-size", "--local_rank"},
    "vqrae/ask.py": {"--max-new-tokens", "--seed", "--bits"},  # `Decoding`; choices
    "vqrae/tune_sampling.py": {"--seed"},  # `check_seed`
}


def test_numbers_on_command_lines_have_a_range() -> None:
    """`type=int` takes -1 where there is nothing to count; what takes it says elsewhere what is allowed."""
    plain = re.compile(r'"(--[\w-]+)",\s*type=int\b')
    rooms = ("common", "tokenizer", "understanding", "generation", "evals", "vqrae", "scripts")
    found = {
        str(path.relative_to(ROOT)): set(plain.findall(path.read_text(encoding="utf-8")))
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
    }
    for name, options in found.items():
        assert options <= CHECKED_BY_THEIR_SETTINGS.get(name, set()), name


def test_the_workflow_runs_the_gate() -> None:
    (job,) = read(".github/workflows/test.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash scripts/test.sh"]


def test_one_version() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[:2] == ["Unreleased", PROJECT["version"]]


@pytest.mark.parametrize("script", ["setup.sh", "test.sh"])
def test_scripts_say_how_they_are_called(script: str, tmp_path: Path) -> None:
    command = ["bash", ROOT / "scripts" / script]
    done = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and f"bash scripts/{script}" in done.stdout, done.stderr
    assert "#" not in done.stdout and "set -e" not in done.stdout


def test_setup_refuses_what_it_does_not_know() -> None:
    for environment, option in (({"PYTHON": "false"}, "app"), ({}, "--app")):
        done = subprocess.run(
            ["/bin/bash", ROOT / "scripts/setup.sh", option],
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and done.stderr.startswith("error: ") and not done.stdout


def test_hooks_call_the_tools_of_the_environment() -> None:
    tools = {hook["entry"].split()[0] for hook in hooks().values() if hook["entry"].startswith(".venv/")}
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy"}
    assert {re.split("[>=]", need)[0] for need in PROJECT["optional-dependencies"]["dev"]} >= {"ruff", "mypy"}


def test_what_is_committed_is_small_and_locks_nothing() -> None:
    """By the hooks' own rules, for those who have not installed them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    files = [name for name in listed.stdout.split("\0") if name]
    locked = [name for name in files if re.search(hooks()["lock-files"]["files"], name)]
    assert files and not locked
    script = hooks()["large-files"]["entry"].removeprefix("bash -c '").removesuffix("' --")
    done = subprocess.run(["bash", "-c", script, "--", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_hooks_find_what_they_look_for(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(201 * 1024))
    (tmp_path / "small.bin").write_bytes(bytes(200 * 1024))
    script = hooks()["large-files"]["entry"].removeprefix("bash -c '").removesuffix("' --")
    for name, code in (("weights.bin", 1), ("small.bin", 0)):
        assert subprocess.run(["bash", "-c", script, "--", tmp_path / name], stdout=-3).returncode == code
    assert all(
        re.search(hooks()["lock-files"]["files"], name) for name in ("uv.lock", "docs/package-lock.json")
    )
    assert not re.search(hooks()["lock-files"]["files"], "tests/test_locks.py")
