"""Promises about the repository's structure."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
JOBS = ("tokenizer", "understanding", "generation")
# Who may import whom: one way only, and the three jobs never each other.
ALLOWED = {
    "common": {"common"},
    **{job: {"common", job} for job in JOBS},
    "evals": {"common", *JOBS, "evals", "vqrae"},
    "vqrae": {"common", *JOBS, "evals", "vqrae"},
}
OURS = set(ALLOWED)
SCRIPTS = sorted(
    path for job in (*JOBS, "evals") for path in (ROOT / job).glob("*.py") if path.stem != "__init__"
)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", [name for name in ALLOWED if (ROOT / name).is_dir()])
def test_imports_run_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        strangers = imports(path) & OURS - ALLOWED[package]
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


def test_no_script_hijacks_an_import() -> None:
    """A script's folder comes first on sys.path: none of its modules may bear an installed or stdlib name."""
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    for path in SCRIPTS:
        assert path.stem not in installed - OURS, f"{path.relative_to(ROOT)} hides the module {path.stem}"


def test_train_scripts_define_no_classes() -> None:
    for path in ROOT.glob("*/train.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_only_what_is_listed_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    present = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for name in OURS
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert listed == present
    for name in listed:
        assert Path(sys.modules.get(name, __import__(name)).__file__ or "").is_relative_to(ROOT)


@pytest.mark.parametrize("script", [f"{job}/train.py" for job in JOBS if (ROOT / job).is_dir()])
def test_train_scripts_run_from_anywhere(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--dry-run" in done.stdout, done.stderr


def test_help_loads_no_model_library() -> None:
    scripts = (
        "tokenizer.train",
        "understanding.train",
        "understanding.preflight",
        "understanding.internvl",
        "generation.train",
        "generation.extract_codes",
        "evals.geneval.run",
        "evals.dpg.run",
        "evals.detectors.mmdet_keys",
        "evals.reconstruction.run",
        "evals.cluster_figure",
        "evals.lmms.run",
        "evals.vlmeval.run",
    )
    for module in (*scripts, "vqrae.cli"):
        command = f"from {module} import main; main()"
        last = "print(*sys.modules, file=sys.stderr)"
        code = f"import sys; sys.argv = ['x', '--help']\ntry:\n {command}\nfinally: {last}"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        loaded = {name.split(".")[0] for name in done.stderr.split()}
        assert done.returncode == 0 and not loaded & {
            "torch",
            "transformers",
            "deepspeed",
            "datasets",
            "pydantic",
        }


def test_the_repository_names_no_machine() -> None:
    """No absolute paths of a machine, no addresses of package hosts."""
    pattern = re.compile(r"(^|[^\w.])/(home|root|work|Users)/\w|pypi\.org|files\.pythonhosted")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split(
        "\0"
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".txt", ""} and path != Path(__file__):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert not pattern.search(line), f"{name}:{number}"
