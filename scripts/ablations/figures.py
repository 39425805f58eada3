"""The curves of an ablation, and what one of its measures costs in another; each seed is a point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import writing
from scripts.ablations.table import COLUMNS, Scores, columns_of, mean


def draw_curves(path: Path, axes: Mapping[str, Mapping[str, Scores]], dashed: str | None = None) -> None:
    """A picture with a row of panels for each measure and a column for each axis, a line through the means.

    Args:
        axes: what the axis is called -> the label of a variant on it -> its scores.
        dashed: the label on the first axis where a dashed line stands.

    Raises:
        UserError: it cannot be written.
    """
    columns = columns_of(
        {f"{axis} {label}": scores for axis, at in axes.items() for label, scores in at.items()}
    )
    figure, grid = _pyplot().subplots(
        len(columns), len(axes), squeeze=False, figsize=(4.2 * len(axes), 2.6 * len(columns)), sharey="row"
    )
    for row, column in zip(grid, columns, strict=True):
        key, _ = COLUMNS[column]
        row[0].set_ylabel(column)
        for number, (panel, (axis, variants)) in enumerate(zip(row, axes.items(), strict=True)):
            values = {label: [scores[key] for scores in variant] for label, variant in variants.items()}
            panel.plot(list(values), [mean(seeds) for seeds in values.values()], color="0.6", zorder=1)
            for label, seeds in values.items():
                panel.scatter([label] * len(seeds), seeds, s=18, zorder=2)
            if dashed in values and number == 0:
                panel.axvline(dashed, linestyle="--", color="0.8", zorder=0)
            panel.set_xlabel(axis)
            panel.grid(axis="y", alpha=0.3)
    _save(figure, path)


def draw_trade(path: Path, variants: Mapping[str, Scores], across: str, up: str) -> None:
    """A picture of one column against another: a colour for each variant.

    Raises:
        UserError: it cannot be written.
    """
    figure, panel = _pyplot().subplots(figsize=(5, 3.4))
    for name, scores in variants.items():
        places = [[seed[COLUMNS[column][0]] for seed in scores] for column in (across, up)]
        panel.scatter(*places, s=36, label=name)
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    _save(figure, path)


def _pyplot() -> Any:
    """Without a display; loaded late, since it takes a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    with writing(path):
        figure.savefig(path, dpi=120)
    _pyplot().close(figure)
