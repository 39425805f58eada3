"""Codes of all hidden states of an encoder against codes of its last alone: what they keep, and how easy they are to
write.

    python -m benchmarks.deep_tokenizer --demo runs/demo --only 'stage1/demo/*'
    python -m benchmarks.deep_tokenizer --demo runs/demo --photos DIR [DIR] --held-out-photos DIR --teacher FILE

A cell of the table is one training with its scores, `kind/encoder/arm/seed`; one that is there is not run again, so
that a stopped call goes on. On the demo's encoder, on one trained alike for meaning alone (its pixel term off), and on
a ViT that a classifier of ImageNet has taught (`benchmarks/deep_parts/photographs.py`), stage 1 of 500 steps and three
seeds each; on the demo's encoder also stage 2, generators of its codes, and answers from its features. OUT receives a
file for each cell, results.json and table.md. The demo must have run; `--list` names the cells, and which are there.
"""

from __future__ import annotations

import argparse
import json
import time
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.deep_parts.cells import KINDS, Cell, Places, all_cells
from benchmarks.measure import report
from common.command import described_parser
from common.errors import UserError, run_cli
from common.files import write_json, write_text

COLUMNS = {
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "usage": ("codes in use", "{:.1%}"),
    "detected": ("detected", "{:.1%}"),
    "probe_codes": ("probe, codes", "{:.1%}"),
    "probe_features": ("probe, features", "{:.1%}"),
    "nats_a_code": ("nats a code", "{:.3f}"),
    "geneval_overall": ("GenEval", "{:.3f}"),
    "vqa_val_questions": ("VQA", "{:.1%}"),
}


def main() -> None:
    options = build_parser().parse_args()
    cells = [cell for cell in all_cells() if any(fnmatch(str(cell), part) for part in options.only)]
    if not cells:
        raise UserError(f"--only {' '.join(options.only)}: no such cell; --list names them")
    if options.list:
        for cell in cells:
            print(f"{cell}{'  done' if result_file(options.output, cell).is_file() else ''}")
        return
    places = Places(
        demo=options.demo.resolve(),
        output=options.output.resolve(),
        precision=options.precision,
        photos=tuple(folder.resolve() for folder in options.photos),
        held_out_photos=options.held_out_photos and options.held_out_photos.resolve(),
        teacher=options.teacher and options.teacher.resolve(),
    )
    for cell in cells:
        if not result_file(options.output, cell).is_file():
            print(f"=== {cell}", flush=True)
            start = time.perf_counter()
            scores = KINDS[cell.kind](cell, places)
            seconds = round(time.perf_counter() - start)
            write_json(result_file(options.output, cell), {**scores, "seconds": seconds}, indent=1)
            print(json.dumps(scores), flush=True)
    tell(options.output)


def build_parser() -> argparse.ArgumentParser:
    parser = described_parser(__doc__)
    parser.add_argument(
        "--demo", type=Path, default=Path("runs/demo"), help="its folder (default: runs/demo)"
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", default=[], help="folders of photographs to learn from"
    )
    parser.add_argument("--held-out-photos", type=Path, help="folder of photographs to measure")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="EfficientNet-lite0's weights, a .pth")
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="cells, as kind/encoder/arm/seed"
    )
    parser.add_argument("--list", action="store_true", help="name the cells, and do nothing")
    parser.add_argument("--precision", choices=("fp32", "bf16_autocast"), default="bf16_autocast")
    output = Path("runs", "benchmarks", "deep_tokenizer")
    parser.add_argument("--output", type=Path, default=output, help="default: %(default)s")
    return parser


def result_file(output: Path, cell: Cell) -> Path:
    return output / "cells" / f"{str(cell).replace('/', '_')}.json"


def tell(output: Path) -> None:
    """Write results.json and table.md of all cells that are there, and print the table."""
    found: dict[str, dict[str, Any]] = {}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in all_cells():
        if (file := result_file(output, cell)).is_file():
            found[str(cell)] = json.loads(file.read_text(encoding="utf-8"))
            groups.setdefault((cell.kind, cell.encoder, cell.arm), []).append(found[str(cell)])
    present = [name for name in COLUMNS if any(name in scores for scores in found.values())]
    headings = ["training", "encoder", "quantizer reads", "seeds", *(COLUMNS[name][0] for name in present)]
    rows = [
        [
            *key,
            str(len(seeds)),
            *(shown(name, [one[name] for one in seeds if name in one]) for name in present),
        ]
        for key, seeds in groups.items()
    ]
    lines = [headings, ["---"] * len(headings), *rows]
    write_text(output / "table.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
    report(output, {"cells": found}, "last hidden state against all", headings, rows)


def shown(name: str, values: list[float]) -> str:
    """The mean over seeds, and how far they spread."""
    if not values:
        return "-"
    form = COLUMNS[name][1]
    text = form.format(mean(values))
    if len(values) == 1:
        return text
    return f"{text} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    run_cli(main)
