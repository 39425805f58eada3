"""Promises about the repository's structure."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
JOBS = ("tokenizer", "understanding", "generation")
# Who may import whom: one way only, and the three jobs never each other.
ALLOWED = {
    "common": {"common"},
    **{job: {"common", job} for job in JOBS},
    "evals": {"common", *JOBS, "evals"},
    "post_training": {"common", "generation", "understanding", "evals", "post_training"},
    "vqrae": {"common", *JOBS, "evals", "post_training", "vqrae"},
    "scripts": {"common", *JOBS, "evals", "post_training", "vqrae", "scripts"},
    "benchmarks": {"common", *JOBS, "evals", "post_training", "vqrae", "benchmarks"},
}
OURS = set(ALLOWED)
INSTALLED = OURS - {"scripts", "benchmarks"}
FILES = sorted(path for name in ALLOWED for path in (ROOT / name).rglob("*.py"))
# Started by their path, so that their own folder comes first on sys.path; all others are started with -m.
SCRIPTS = sorted(
    path
    for path in (
        *(path for job in (*JOBS, "post_training") for path in (ROOT / job).glob("*.py")),
        ROOT / "benchmarks" / "gpu.py",
    )
    if path.stem != "__init__"
)


def module_name(path: Path) -> str:
    """`common.data.stream`; a package by its folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file names in an import, wherever it stands: late ones and those for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return frozenset(found)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        strangers = {name.split(".")[0] for name in imports(path)} & OURS - ALLOWED[package]
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, by Tarjan's algorithm on a graph of module -> imported modules."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: set(imports(path) & MODULES.keys()) for name, path in MODULES.items()}
    assert circles(graph) == []
    # The search itself: a ring of three, with a tail, and a module that imports itself.
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}) == [
        ["a", "b", "c"],
        ["e"],
    ]


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


def renames(path: Path) -> list[int]:
    """Lines that rename a file into place: `Path.rename`, `Path.replace`, `os.rename`, `os.replace`, `shutil.move`.

    `str.replace` takes two arguments or more, `Path.replace` one; `dataclasses.replace` is called by its bare name.
    """
    lines = []
    for call in calls(path):
        function = call.func
        if not isinstance(function, ast.Attribute):
            continue
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        of_module = owner in ("os", "shutil") and function.attr in ("rename", "replace", "renames", "move")
        of_path = function.attr in ("rename", "replace") and len(call.args) == 1 and owner != "dataclasses"
        if of_module or of_path:
            lines.append(call.lineno)
    return lines


def test_only_one_file_renames_files_into_place(tmp_path: Path) -> None:
    for path in FILES:
        if path != ROOT / "common" / "files.py":
            assert not renames(path), f"{path.relative_to(ROOT)}:{renames(path)}"
    planted = tmp_path / "planted.py"
    planted.write_text(
        "p.replace(q)\np.rename(q)\nos.replace(p, q)\nshutil.move(p, q)\n't'.replace('a', 'b')\n"
    )
    assert renames(planted) == [1, 2, 3, 4]


def openings(path: Path) -> list[int]:
    """Lines that open or convert a picture for themselves: `Image.open`, `.convert("RGB")`."""
    lines = []
    for call in calls(path):
        function = call.func
        if not isinstance(function, ast.Attribute):
            continue
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        words = [word.value for word in call.args if isinstance(word, ast.Constant)]
        if (owner, function.attr) == ("Image", "open") or (function.attr == "convert" and words == ["RGB"]):
            lines.append(call.lineno)
    return lines


def test_only_one_place_opens_pictures(tmp_path: Path) -> None:
    """Else one part of the system would see another picture than the next: black where that has white."""
    allowed = {ROOT / "common" / "data" / name for name in ("decoding.py", "rgb.py")}
    # They run where nothing of ours is installed, as others do; or time what others do.
    names = ("foreign/read_transformers.py", "mplug/ask_modelscope.py", "decode.py")
    allowed |= {ROOT / "benchmarks" / name for name in names}
    for path in FILES:
        if path not in allowed:
            assert not openings(path), f"{path.relative_to(ROOT)}:{openings(path)}"
    planted = tmp_path / "planted.py"
    planted.write_text("Image.open(p)\npicture.convert('RGB')\nimage.convert(mode)\np.open()\n")
    assert openings(planted) == [1, 2]


def test_no_module_of_ours_is_reached_through_the_path() -> None:
    """Nobody changes where Python looks for modules, but for the checkout of an external kit, which is none of ours,
    and for a forked process, which has its server's path."""
    allowed = {
        ROOT / name
        for name in ("evals/vlmeval/run.py", "benchmarks/forked_runs.py", "benchmarks/forked_tests.py")
    }
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "path" and ast.unparse(node) == "sys.path":
                assert path in allowed, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_files_and_functions_are_read_in_one_sitting() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, f"{path.relative_to(ROOT)}: over 300 lines: two ideas?"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (path.name, node.name) != ("train.py", "train"):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= 60, f"{path.relative_to(ROOT)}: {node.name}: {lines} lines"


def test_no_script_hijacks_an_import() -> None:
    """A script's folder comes first on sys.path: none of its modules may bear an installed or stdlib name."""
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    for path in SCRIPTS:
        assert path.stem not in installed - OURS, f"{path.relative_to(ROOT)} hides the module {path.stem}"


def test_whoever_says_it_is_started_by_its_path_is() -> None:
    """In folders below, and in evals, vqrae and benchmarks, modules are started with `-m` and say so."""
    for path in FILES:
        module = module_name(path)
        by_path = f"python {path.relative_to(ROOT)}"
        if path not in SCRIPTS and by_path in path.read_text(encoding="utf-8"):
            raise AssertionError(f"{by_path}: is started as python -m {module}")


def test_train_scripts_define_no_classes() -> None:
    for path in ROOT.glob("*/train.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_only_what_is_listed_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    present = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for name in INSTALLED
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert listed == present
    for name in listed:
        assert Path(sys.modules.get(name, __import__(name)).__file__ or "").is_relative_to(ROOT)


@pytest.mark.parametrize("script", [f"{job}/train.py" for job in (*JOBS, "post_training")])
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
        "evals.geneval.made_prompts",
        "evals.dpg.run",
        "evals.detectors.mmdet_keys",
        "evals.reconstruction.run",
        "evals.cluster_figure",
        "evals.details.run",
        "evals.semantics.run",
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


@pytest.mark.slow
def test_printing_a_recipe_loads_no_model_library() -> None:
    code = "import sys; sys.argv = ['x', '--print-config']\n"
    code += "".join(f"from {job}.train import main; main()\n" for job in (*JOBS, "post_training"))
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert done.returncode == 0 and not loaded & {"transformers", "deepspeed", "datasets", "timm"}


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
