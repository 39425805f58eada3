"""Do others read what training leaves? Folders of every kind, opened by transformers 4.57, the pinned one, and vLLM.

    python -m benchmarks.foreign_loaders --environments runs/environments --demo runs/demo

Small models are made, written as training writes them, and read by interpreters of environments that do not know this
project (made at the first call; a few minutes and 6 GB). Of each loader are told: weights missing and unexpected, the
largest difference of logits from the model in memory, float32, and whether prompts, ids, pixels and greedy answers are
the same. With --demo, the demo's own models too, and vLLM answers its held-out questions beside `vqrae`'s own chat.
Exits non-zero where a weight is missing or unexpected, logits differ by more than 1e-4, or fewer than 99% of the
answers are the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common.command import described_parser, positive
from common.errors import UserError, run_cli

LOGITS, ANSWERS = 1e-4, 0.99


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--environments", type=Path, help="keep them there (default: made anew, and removed)")
    parser.add_argument("--demo", type=Path, help="a finished demo, such as runs/demo")
    parser.add_argument(
        "--questions", type=positive, default=240, help="held-out ones, for vLLM (default: 240)"
    )
    parser.add_argument("--out", type=Path, help="write the table as JSON too")
    parser.add_argument("--without-vllm", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(options, Path(temporary))
    if options.out is not None:
        from common.files import write_json

        write_json(options.out, rows)
    print_rows(rows)
    bad = [f"{row['loader']}: {row['folder']}: {problem}" for row in rows if (problem := missed(row))]
    if bad:
        raise UserError("; ".join(bad))


def measure(options: Any, work: Path) -> list[dict[str, Any]]:
    """One row for each loader and folder."""
    from benchmarks.foreign import environments, loaders
    from benchmarks.foreign.demo import demo_cases
    from benchmarks.foreign.folders import make_all

    home = options.environments or work / "environments"
    wanted = [environments.PINNED, environments.FOREIGN]
    if not options.without_vllm:
        wanted.append(environments.SERVING)
    pythons = {one: environments.python_of(one, home) for one in wanted}
    cases = list(make_all(work / "folders"))
    if options.demo is not None:
        cases += demo_cases(options.demo, options.questions)
    rows = []
    for one, python in pythons.items():
        served = one is environments.SERVING
        rows += (loaders.serve if served else loaders.read)(python, one.probe, cases, work)
    return rows


def missed(row: dict[str, Any]) -> str | None:
    """What is wrong with a row."""
    if "error" in row:
        return str(row["error"])
    if row["missing"] or row["unexpected"]:
        return f"{row['missing']} weights missing, {row['unexpected']} unexpected"
    if row["difference"] is not None and not row["difference"] <= LOGITS:
        return f"logits differ by {row['difference']:.1e}"
    if row["differing"]:
        return f"another {', '.join(row['differing'])}"
    if row["answers"] and row["same"] < ANSWERS * row["answers"]:
        return f"{row['same']} of {row['answers']} answers are the same"
    return None


def print_rows(rows: list[dict[str, Any]]) -> None:
    """As a table in Markdown."""
    print("| loader | folder | missing | unexpected | largest difference | answers equal |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            print(f"| {row['loader']} | {row['folder']} | {row['error']} | | | |")
            continue
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        same = f"{row['same']} of {row['answers']}" if row["answers"] else "-"
        counts = f"{row['missing']} | {row['unexpected']}"
        print(f"| {row['loader']} | {row['folder']} | {counts} | {difference} | {same} |")


if __name__ == "__main__":
    run_cli(main)
