"""The cells of `benchmarks/better_pictures.py` as a table, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.picture_scores import summary
from evals.geneval.rules import TAGS

Cell = Mapping[str, Any]

GUIDED, PLAIN = 1.5, 1.0
TARGET = 0.85  # overall, guided, with both parts
SURE = 0.95  # the judge's accuracy on true scenes
MOST_SECONDS = 15 * 60.0
OTHERS = ("strict", "judge", "best_of_4_exact", "best_of_4_judge", "agreement")
NAMES = {
    ("last", False): "neither",
    ("deep", False): "deep tokenizer",
    ("last", True): "post-training",
    ("deep", True): "both",
}


def chosen(cells: Sequence[Cell], arm: str, trained: bool, scale: float) -> list[Cell]:
    """Those of one arm, before its post-training or after, one for each seed."""
    return [
        cell
        for cell in cells
        if cell["arm"] == arm and (cell["seed"] is not None) == trained and cell["cfg_scale"] == scale
    ]


def markdown(cells: Sequence[Cell]) -> str:
    """A row for each arm and guidance: means over seeds, GenEval's with 95% intervals over prompts."""
    columns = (
        "",
        "guidance",
        "overall",
        *TAGS,
        "strict",
        "judge",
        "best of 4",
        "by the judge",
        "agree",
        "diversity",
    )
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for (arm, trained), name in NAMES.items():
        for scale in (GUIDED, PLAIN):
            if of := chosen(cells, arm, trained, scale):
                lines.append("| " + " | ".join([name, f"{scale:g}", *_row(of)]) + " |")
    return "\n".join(lines)


def _row(cells: Sequence[Cell]) -> list[str]:
    exact = summary(cells, "exact")
    spans = [f"{value:.3f} ({low:.2f}-{high:.2f})" for value, (low, high) in exact.values()]
    others = (_overall(cells, name) for name in OTHERS)
    return [*spans, *(f"{value:.3f}" for value in others), f"{_overall(cells, 'diversity'):.4f}"]


def _overall(cells: Sequence[Cell], score: str) -> float:
    return summary(cells, score)["overall"][0]


def claims(
    cells: Sequence[Cell], accuracy: Mapping[str, float], seconds: Mapping[str, float]
) -> dict[str, bool]:
    """What was to be shown, and whether it holds; of arms that were not measured nothing is said.

    Args:
        accuracy: the judge's, on true scenes.
        seconds: of each post-training.
    """
    found = {
        f"the judge's accuracy on true scenes is {accuracy['overall']:.3f} (>= {SURE})": accuracy["overall"]
        >= SURE
    }
    if seconds:
        most = max(seconds.values())
        found[f"post-training takes {most:.0f} s at most (<= {MOST_SECONDS:.0f})"] = most <= MOST_SECONDS
    both, guided = (chosen(cells, "deep", True, scale) for scale in (PLAIN, GUIDED))
    if both and guided:
        reached, without = _overall(guided, "exact"), _overall(both, "exact")
        baseline = _overall(chosen(cells, "last", False, GUIDED), "exact")
        found[f"both, guided: overall {reached:.3f} (>= {TARGET})"] = reached >= TARGET
        told = f"both, without guidance: {without:.3f} (>= neither, guided: {baseline:.3f})"
        found[told] = without >= baseline
    for arm in ("last", "deep"):
        for scale in (GUIDED, PLAIN):
            before, after = (chosen(cells, arm, trained, scale) for trained in (False, True))
            if before and after:
                found |= _kept(before, after, f"{NAMES[arm, True]}, guidance {scale:g}")
    return found


def _kept(before: Sequence[Cell], after: Sequence[Cell], where: str) -> dict[str, bool]:
    """What post-training must not cost, and what must rise with the reward."""
    former, now = summary(before, "exact"), summary(after, "exact")
    fallen = [tag for tag, (value, _) in now.items() if value < former[tag][1][0]]
    counting = former["counting"][0], now["counting"][0]
    judge, strict = ((_overall(before, name), _overall(after, name)) for name in ("judge", "strict"))
    return {
        f"{where}: no tag below its former interval ({', '.join(fallen) or 'none'})": not fallen,
        f"{where}: counting {counting[0]:.3f} -> {counting[1]:.3f}": counting[1] > counting[0],
        f"{where}: the held-out judge {judge[0]:.3f} -> {judge[1]:.3f}": judge[1] > judge[0],
        f"{where}: and nothing else {strict[0]:.3f} -> {strict[1]:.3f}": strict[1] > strict[0],
    }
