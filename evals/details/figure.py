"""The curves of all tokenizers in one figure, the originals' own beside them: the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import writing
from evals.details.charts import DetailTest
from evals.details.curves import Curve
from evals.details.measuring import ORIGINAL

ACROSS = 3
"""Panels in a row."""
NO_CEILING = ("psnr", "ssim", "unlike")
"""Measures of a difference: the original has none."""
SourceCurves = Mapping[str, Mapping[str, Curve]]
"""DetailTest -> measure -> curve."""


def draw(path: Path, tests: Sequence[DetailTest], curves: Mapping[str, SourceCurves], side: int) -> None:
    """One panel for each measure of each test; `curves` by source, `ORIGINAL` among them.

    Raises:
        UserError: it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(test, name) for test in tests for name in test.measures if name in curves[ORIGINAL][test.name]]
    rows = -(-len(panels) // ACROSS)
    figure, axes = pyplot.subplots(rows, ACROSS, figsize=(4.2 * ACROSS, 3.1 * rows), squeeze=False)
    for panel in axes.flat[len(panels) :]:
        panel.axis("off")
    for panel, (test, measure) in zip(axes.flat, panels, strict=False):
        for source, found in curves.items():
            if source != ORIGINAL or measure not in NO_CEILING:
                _line(panel, found[test.name][measure], source)
        _dress(panel, test, measure)
    handles = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    figure.legend(
        handles.values(), handles.keys(), loc="upper center", ncols=len(handles), frameon=False, borderpad=0
    )
    height = 3.1 * rows
    figure.text(0.01, 1 - 0.14 / height, f"{side} px", va="center", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.28 / height))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, metadata={"Software": "VQRAE"})
    pyplot.close(figure)


def _line(panel: Any, found: Curve, source: str) -> None:
    if source == ORIGINAL:
        panel.plot(found.level, found.mean, "k--", lw=1.2, marker=".", label="original (the ceiling)")
        return
    (line,) = panel.plot(found.level, found.mean, lw=1.6, marker=".", label=source)
    panel.fill_between(found.level, found.low, found.high, color=line.get_color(), alpha=0.15, lw=0)


def _dress(panel: Any, test: DetailTest, measure: str) -> None:
    """The hardest level stands at the right; levels are ratios."""
    from matplotlib.ticker import NullLocator

    panel.set_title(test.measures[measure], fontsize=10)
    panel.set_xlabel(test.axis, fontsize=9)
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    shown = sorted({level for line in panel.get_lines() for level in line.get_xdata()})
    step = max(1, -(-len(shown) // 7))
    panel.set_xticks(shown[::step], [f"{level:.3g}" for level in shown[::step]])
    panel.tick_params(labelsize=8)
    if test.harder == "smaller":
        panel.invert_xaxis()
    if measure not in ("psnr", "unlike"):
        panel.set_ylim(min(-0.03, *panel.get_ylim()), max(1.03, panel.get_ylim()[1]))
    panel.grid(alpha=0.3)
