"""DPG-Bench: do pictures show what long prompts describe, question by question?

    bash evals/run_dpg_bench.sh MODEL             draw four pictures of each prompt, and ask about them
    bash evals/run_dpg_bench.sh --pictures GRIDS  ask about pictures that are there already
    GPUS=8 bash evals/run_dpg_bench.sh MODEL      the same scores, sooner

A model that sees answers the questions of the CSV: the original's mPLUG large, from its released files, or with --judge
any chat model of the hub, whose figures are labelled and not comparable. It is opened, and asked a question, before
anything is drawn; one that answers too often with neither yes nor no is refused.
Both ways to score, `official` and `fixed`, are described in evals/dpg/rules.py.

--limit takes prompts at even distances from the whole set. DIR receives pictures/ (one PNG a prompt, its four pictures
in a 2 x 2 grid, as the original's), answers/ (so that nothing is asked twice), results.json and verdicts.jsonl (every
answer, a line a prompt).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, run_cli
from evals import drawing
from evals.command import claim_output, spread

if TYPE_CHECKING:
    from evals.dpg.rules import Item
    from evals.preflight import Need

WRITES = ("verdicts.jsonl", "answers", "pictures")
LAYOUT = "ITEM_ID.png, 2 x 2 pictures each, as the original's"
CSV_URL = "https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/dpg_bench.csv"


def parser() -> argparse.ArgumentParser:
    options = drawing.build_parser("run_dpg_bench.sh", __doc__, LAYOUT, WRITES)
    options.add_argument(
        "--csv", type=Path, metavar="FILE", help="dpg_bench.csv (default: the official, downloaded)"
    )
    options.add_argument(
        "--scoring",
        choices=("official", "fixed"),
        default="official",
        help="default: official, faults included",
    )
    options.add_argument(
        "--judge",
        default="mplug",
        metavar="MODEL",
        help="mplug, a folder of its files, or a chat model's folder or hub id (default: mplug)",
    )
    return options


def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    _preflight(arguments)
    claim_output(arguments)
    from common import dist
    from evals.downloads import kept_at
    from evals.dpg.answers import ask_waiting, read_answers
    from evals.dpg.judges import open_judge
    from evals.dpg.rules import read_items

    start = time.time()
    device = dist.start_process(arguments.device)
    path = arguments.csv or kept_at(CSV_URL)
    items = read_items(path, arguments.scoring)
    chosen = spread(items, arguments.limit)
    judge = open_judge(arguments.judge, device)
    folder = arguments.pictures or _draw(arguments, chosen, items)
    for item in chosen:
        if not (folder / f"{item.name}.png").is_file():
            raise UserError(f"{folder / item.name}.png: missing: every prompt must have its pictures")
    ask_waiting(judge, chosen, folder, arguments.output / "answers")
    if dist.is_main():
        from evals.dpg.report import report

        answers = read_answers(judge, chosen, folder, arguments.output / "answers")
        drawn = None if arguments.pictures else folder / "drawn"
        files = sorted(drawn.glob("*_*.png")) if drawn else []
        report(
            arguments.output,
            chosen,
            answers,
            items=items,
            csv=path,
            source=str(arguments.csv or "official"),
            scoring=arguments.scoring,
            judge=judge.identity,
            origin=drawing.find_origin(folder, arguments.model, files, drawn),
            seconds=time.time() - start,
        )
    dist.barrier()


def _preflight(arguments: argparse.Namespace) -> None:
    """Everything that is missing, at once and before anything is loaded; raises `UserError` if anything is."""
    from evals import downloads
    from evals.dpg.rules import is_official
    from evals.preflight import require

    needs = [drawing.need(arguments.model, arguments.pictures, LAYOUT)]
    if arguments.csv is None:
        needs.append(downloads.need(CSV_URL, is_official, "the official questions", "--csv"))
    require("DPG-Bench", [*needs, _judge_need(arguments.judge)])


def _judge_need(judge: str) -> Need:
    from evals.dpg.mplug import released
    from evals.preflight import Need, model

    what = "the model that answers"
    folder = released.find() if judge == "mplug" else Path(judge)
    if folder is None:
        others = "other models answer too, as --judge MODEL, but their figures are not comparable"
        return Need(f"{what}: {released.NAME}", False, f"{released.HOW};\n{others}")
    if released.looks_like(folder):
        absent = released.absent(folder)
        return Need(f"{what}: {', '.join(absent)} in {folder}", not absent, released.HOW)
    return model(judge, what, "--judge")


def _draw(arguments: argparse.Namespace, items: Sequence[Item], every: Sequence[Item]) -> Path:
    """The pictures that are not there yet, and their grids; returns the grids' folder."""
    from common import dist
    from common.data.images import open_image
    from common.files import write_png
    from evals.dpg.judges import grid_of
    from evals.dpg.rules import TILES

    folder: Path = arguments.output / "pictures"
    numbers = {item.name: number for number, item in enumerate(every)}
    numbered = [(numbers[item.name], item.text) for item in items]
    files = drawing.draw(arguments, numbered, TILES, folder / "drawn")
    for place in range(dist.rank(), len(items), dist.world()):
        grid = folder / f"{items[place].name}.png"
        own = files[place * TILES : (place + 1) * TILES]
        # A grid that is older than its pictures shows others, which were drawn before them.
        if not grid.is_file() or grid.stat().st_mtime_ns < max(one.stat().st_mtime_ns for one in own):
            write_png(grid, grid_of([open_image(one) for one in own]))
    dist.barrier()
    return folder


if __name__ == "__main__":
    run_cli(main)
