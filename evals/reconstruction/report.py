"""What an evaluation of reconstructions leaves behind: scores, single pictures, results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import dist
from evals.reconstruction import examples
from evals.reconstruction.examples import Examples
from evals.result_table import finish
from evals.results import Results

PAPER_ROWS = {"siglip_vision_model": "SigLIP2", "internvl_vision": "InternViT"}
"""Rows of Table 2 by the encoder's kind."""
PUBLISHED_IMAGES = 50_000


def report(
    output: Path,
    scored: tuple[Mapping[str, float], Sequence[dict[str, Any]], Examples],
    *,
    found: int,
    expected: int,
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    encoder: str,
    seconds: float,
) -> None:
    """Write all of it into `output` and print the table; one process calls it.

    Args:
        scored: see `score.score`.
        found: pictures that there are; `expected`: those that were to be scored.
        settings: the protocol (see `preprocessing.describe`) and what else shaped the scores.
        encoder: its kind, as transformers calls it.
    """
    scores, rows, shown = scored
    examples.write(output, rows, shown)
    notes = [f"worst pictures: {output / 'worst.png'}"]
    if "rfid" in scores and scores["images"] < PUBLISHED_IMAGES:
        notes.insert(0, "rFID falls with the number of images: compare it only at equal numbers.")
    if "ssim_data_range_2" in scores:
        notes.insert(
            0, "ssim_data_range_2 is too high by construction: for comparison with such numbers only."
        )
    results = Results(
        benchmark="reconstruction",
        protocol=f"{settings['name']}, {settings['size']} px",
        scores={name: value for name, value in scores.items() if name != "images"},
        expected=expected,
        scored=int(scores["images"]),
        partial=expected < found,
        settings={**settings, "images_found": found},
        model=model,
        seconds=round(seconds, 1),
        processes=dist.world(),
        paper_row=PAPER_ROWS.get(encoder),
    )
    finish(output, results, notes)
