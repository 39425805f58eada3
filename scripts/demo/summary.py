"""`summary.json` of the demo: each part of the demo adds its section; the whole is printed as one table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.files import write_json


def merge(path: Path, section: str, values: dict[str, Any]) -> None:
    """Set one section of the summary, keeping the others."""
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    summary[section] = values
    write_json(path, summary)


def add_seconds(path: Path, timings: Path) -> None:
    """Read lines of `step seconds`, as the demo's shell script writes them; some steps ran side by side."""
    rows = (line.split() for line in timings.read_text(encoding="utf-8").splitlines())
    merge(path, "seconds", {step: int(seconds) for step, seconds in rows})


def show(path: Path) -> None:
    """Print every section."""
    table = Table(title=str(path), title_justify="left")
    for column, justify in (("part", "left"), ("figure", "left"), ("value", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for section, values in json.loads(path.read_text(encoding="utf-8")).items():
        for name, value in values.items():
            for part, figure in value.items() if isinstance(value, dict) else [("", value)]:
                text = f"{figure:.4g}" if isinstance(figure, float) else str(figure)
                table.add_row(section, f"{name} {part}".strip(), text)
        table.add_section()
    Console(width=78).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summary", type=Path)
    parser.add_argument("--seconds", type=Path, required=True, help="lines of `step seconds`")
    options = parser.parse_args()
    add_seconds(options.summary, options.seconds)
    show(options.summary)
