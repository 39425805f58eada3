"""The outcomes as one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_parts.schedule import Outcome

PIPED_WIDTH = 160  # columns where there is no terminal to ask


def print_table(facts: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """One row for each thing measured, checked, failed or skipped; above it what the other scripts printed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    title = f"{facts['device'].get('name', 'no device')}, torch {facts['versions'].get('torch')}"
    if facts.get("check"):
        title += "; a check at tiny size, whose times mean nothing"
    table = Table(title=title, title_justify="left")
    for column in ("part", "what"):
        table.add_column(column, overflow="fold")
    for column in ("batch", "a second", "ms a step", "MFU", "peak GiB", "GPU waits"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for outcome in outcomes:
        for row in outcome.rows:
            table.add_row(outcome.name, *map(escape, cells(row)))
        if outcome.state != "measured":
            table.add_row(outcome.name, outcome.state, *[""] * 6, escape(outcome.reason), style="yellow")
        elif not outcome.rows:
            table.add_row(outcome.name, "printed above", *[""] * 6, f"{outcome.seconds:.0f} s")
    for outcome in outcomes:
        if outcome.lines:
            console.print(f"\n{outcome.name}", style="bold")
            console.print("\n".join(outcome.lines), markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def cells(row: dict[str, Any]) -> list[str]:
    """The columns after the first."""

    def shown(key: str, form: str, after: str = "") -> str:
        return f"{row[key]:{form}}{after}" if row.get(key) is not None else ""

    note = f"failed: {row['failed']}" if "failed" in row else row.get("note", "")
    return [
        row["what"],
        shown("batch", "d"),
        shown("per_second", ",.1f", f" {row.get('unit', '')}"),
        shown("ms", ",.1f"),
        shown("mfu", ".1%"),
        shown("memory_gib", ".1f"),
        shown("waiting", ".1%"),
        note,
    ]
