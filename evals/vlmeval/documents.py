"""Twenty made-up rows for each of the paper's data sets, in the columns of VLMEvalKit's TSV files.

They are to VLMEvalKit what `evals/lmms/documents.py` is to lmms-eval. Pictures are of all shapes, since InternVL cuts
them into tiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from evals.lmms.documents import COUNT, choices, question_text

CHOICE = ("MMBench_DEV_EN", "SEEDBench_IMG", "AI2D_TEST", "MMMU_DEV_VAL")
SHAPES = ((64, 64), (96, 32), (32, 96), (120, 50), (64, 48), (200, 20), (50, 75))


def write_rows(data: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a data set; `pictures` are the paths that the kit's `dump_image` would give, written to `folder`."""
    rows = []
    for number in range(COUNT):
        count = 1 + (number % 4 if data == "MMMU_DEV_VAL" else 0)
        row = {
            "index": number,
            "question": _question(data, number),
            "pictures": _pictures(folder, number, count),
        }
        if data in CHOICE and not (data == "MMMU_DEV_VAL" and number % 6 == 5):  # an open question
            row |= dict(zip("ABCD", [*choices(number, 2 + number % 3), *[float("nan")] * 2], strict=False))
        if data == "MMBench_DEV_EN":
            row["hint"] = (float("nan"), "The cup is\nnew.", "Das Maß ist voll.")[number % 3]
        rows.append(row)
    return rows


def _question(data: str, number: int) -> str:
    text = question_text(number)
    if data == "MME":
        return f"{text} Please answer yes or no."
    if data == "MMMU_DEV_VAL":
        return f"<image 1> {text}" if number % 3 else f"{text} <image 2> and <image 1>, and <image 2> again"
    return text


def _pictures(folder: Path, number: int, count: int) -> list[str]:
    paths = [folder / f"{number}_{place}.png" for place in range(count)]
    for place, path in enumerate(paths):
        Image.new("RGB", SHAPES[(number + place) % len(SHAPES)], (number, place, 0)).save(path)
    return [str(path) for path in paths]
