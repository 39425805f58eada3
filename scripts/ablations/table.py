"""An ablation's table: a line for each variant, means over seeds with half of their range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.files import write_text

Scores = Sequence[Mapping[str, float]]
"""Of one variant, a mapping for each seed."""

COLUMNS = {
    "PSNR": ("psnr", 2),
    "SSIM": ("ssim", 3),
    "rFID": ("rfid", 2),
    "usage": ("usage", 3),
    "probe": ("probe", 3),
}
"""Name of a column -> its score, and digits. Only what was measured is shown."""


def columns_of(measured: Mapping[str, Scores]) -> list[str]:
    """Those columns whose scores all variants and seeds have."""
    everything = [scores for variant in measured.values() for scores in variant]
    return [name for name, (key, _) in COLUMNS.items() if all(key in scores for scores in everything)]


def write_table(path: Path, title: str, measured: Mapping[str, Scores], notes: Sequence[str]) -> None:
    """A table in Markdown, also printed.

    Args:
        title: of the first column, which holds the variants' names.

    Raises:
        UserError: it cannot be written.
    """
    columns = columns_of(measured)
    lines = [[title, *columns], ["---", *["---:"] * len(columns)]]
    for name, variant in measured.items():
        cells = (COLUMNS[column] for column in columns)
        lines.append([name, *(spread([scores[key] for scores in variant], digits) for key, digits in cells)])
    text = "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes, ""])
    write_text(path, text)
    print(text)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread(values: Sequence[float], digits: int) -> str:
    """The mean and, where there are several, half of what lies between the lowest and the highest."""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.{digits}f}"
