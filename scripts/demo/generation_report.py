"""What the miniature generator reached: the scores of GenEval's rules, its rate, and a sheet of its pictures.

    python -m scripts.demo.generation_report --demo runs/demo

Reads the `results.json` files that the evaluations have written; draws only to measure the rate. Writes the sections
`generation` and `evaluations` of summary.json, and generated.png: a few prompts of each kind, all unseen in training.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image

from common.data.images import read_image
from common.errors import run_cli
from common.sheets import contact_sheet
from evals.geneval.prompts import described_prompts
from evals.geneval.rules import TAGS
from evals.results import read
from generation.generator import Generator
from scripts.demo.command import demo_parser
from scripts.demo.summary import merge

TIMED = 64  # pictures
SHOWN_PROMPTS, SHOWN_PICTURES = 3, 8  # of each tag


def geneval(folder: Path) -> dict[str, float]:
    """Overall, and each tag."""
    scores = read(folder)["scores"]
    return {name: scores[name] for name in ("overall", *TAGS)}


def images_per_second(model: Path) -> float:
    """Pictures drawn in one batch, decoded, by the folder's own settings, without the time to load the model."""
    generator = Generator.from_pretrained(str(model))
    prompts = ["a photo of a red circle", "a photo of two squares"]
    generator.generate(prompts, 1)  # warm
    start = time.perf_counter()
    generator.generate(prompts, TIMED // 2, batch_size=TIMED)
    return TIMED / (time.perf_counter() - start)


def sheet(pictures: Path) -> Image.Image:
    """The first pictures of the first prompts of each tag."""
    rows = []
    shown: dict[str, int] = defaultdict(int)
    for prompt in described_prompts(pictures):
        tag = prompt.metadata["tag"]
        shown[tag] += 1
        if shown[tag] <= SHOWN_PROMPTS:
            files = sorted((pictures / f"{prompt.number:05d}" / "samples").glob("*.png"))[:SHOWN_PICTURES]
            rows.append((prompt.text, [read_image(file) for file in files]))
    return contact_sheet(rows)


def main() -> None:
    demo: Path = demo_parser(__doc__).parse_args().demo
    section: dict[str, Any] = {
        "geneval": geneval(demo / "geneval"),
        "geneval_no_cfg": geneval(demo / "geneval_no_cfg"),
        "geneval_reconstructed": geneval(demo / "geneval_reconstructed"),
        "images_per_second": images_per_second(demo / "generator" / "model"),
    }
    merge(demo / "summary.json", "generation", section)
    evaluations: dict[str, Any] = {"reconstruction": read(demo / "reconstruction")["scores"]}
    if (demo / "lmms_eval").is_dir():
        evaluations["lmms_eval"] = read(demo / "lmms_eval")["scores"]
    merge(demo / "summary.json", "evaluations", evaluations)
    sheet(demo / "geneval" / "pictures").save(demo / "generated.png")
    print(f"pictures: {demo / 'generated.png'}, each with its verdict: {demo / 'geneval' / 'page.html'}")


if __name__ == "__main__":
    run_cli(main)
