"""pytest in children of one process that has the large libraries imported, so that a run costs no imports.

Nothing of this project is imported before the fork: what a child tests is the tree that it is given, however changed.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "PIL.Image",
    "pytest",
    "_pytest.assertion.rewrite",
    "yaml",
    "pydantic",
)
LATE = (
    "transformers.models.siglip.modeling_siglip",
    "transformers.models.llama.modeling_llama",
    "deepspeed",
    "peft",
)
TOO_LONG = 1001


class Outcome(NamedTuple):
    """pytest's exit code (`TOO_LONG` where the limit ended it), what it printed, and seconds."""

    code: int
    output: str
    seconds: float


def import_libraries() -> None:
    """Once, in the parent. What is not installed is left out; the tests will say so if they need it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in (*LIBRARIES, *LATE):
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)


def run_forked(tests: Sequence[str], folder: Path, limit: float) -> Outcome:
    """`pytest TESTS` in a child that stands in `folder`, whose packages come first.

    Args:
        limit: seconds until the child and all it has started are killed.
    """
    began = time.monotonic()
    with TemporaryFile() as printed:
        child = os.fork()
        if child == 0:
            _be_pytest(tests, folder, printed.fileno())
        code = _wait(child, began + limit)
        printed.seek(0)
        output = printed.read().decode(errors="replace")
    return Outcome(code, output, time.monotonic() - began)


def _be_pytest(tests: Sequence[str], folder: Path, printed: int) -> None:
    """The child: never returns."""
    code = 3
    try:
        os.setpgid(0, 0)
        for descriptor in (1, 2):
            os.dup2(printed, descriptor)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)  # for what the tests start
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        loaded = [name for name in sys.modules if name.partition(".")[0] in _packages(folder)]
        for name in loaded:
            del sys.modules[name]
        sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(folder)))]
        import pytest

        code = int(pytest.main(["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", *tests]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _packages(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")} | {"tests"}


def _wait(child: int, until: float) -> int:
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > until:
            code = TOO_LONG
            break
        time.sleep(0.05)
    with suppress(ProcessLookupError):  # the child, if it is still there, and what it left behind
        os.killpg(child, signal.SIGKILL)
    if code == TOO_LONG:
        os.waitpid(child, 0)
    return code
