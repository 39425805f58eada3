"""Import every package that the project asks for, so that versions which do not fit each other are found at once.

    python -m scripts.check_imports             the project's own dependencies
    python -m scripts.check_imports dev evals   those of these extras too

One line each; exits with 2 if one of them cannot be imported.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from common.errors import UserError, one_line, run_cli

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# Where a package's module is called otherwise, or is not what is needed of it.
MODULES = {
    "pillow": "PIL",
    "protobuf": "google.protobuf",
    "pyyaml": "yaml",
    # What reads a tokenizer.model. Generated code: it refuses an older protobuf than its own when it is imported.
    "sentencepiece": "sentencepiece.sentencepiece_model_pb2",
}


def main() -> None:
    broken = check(packages(PROJECT, sys.argv[1:]))
    if broken:
        raise UserError(
            f"{', '.join(broken)}: cannot be imported, see above; constraints.txt names versions that fit each other"
        )


def packages(project: Path, extras: Iterable[str] = ()) -> Iterator[str]:
    """Names of the packages that `pyproject.toml` asks for, types for mypy aside.

    Raises:
        UserError: it has no such extra.
    """
    stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    wanted = list(stated["dependencies"])
    for extra in extras:
        if extra not in stated["optional-dependencies"]:
            known = ", ".join(stated["optional-dependencies"])
            raise UserError(f"{project}: no extra {extra!r} there, only {known}")
        wanted += stated["optional-dependencies"][extra]
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and not name[0].startswith("types-"):
            yield name[0]


def check(names: Iterable[str]) -> list[str]:
    """Import each package and print a line about it; the names of those that cannot be."""
    broken = []
    for name in names:
        module = MODULES.get(name, name.replace("-", "_"))
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):  # they greet
                importlib.import_module(module)
            print(f"import {module:<40} {metadata.version(name)}", flush=True)
        except Exception as error:  # whatever a package raises that does not fit its neighbours
            broken.append(name)
            print(f"import {module:<40} FAILED: {type(error).__name__}: {one_line(error)}", flush=True)
    return broken


if __name__ == "__main__":
    run_cli(main)
