"""One process and two give the same lmms-eval scores, to the last digit, and the same answer to every question.

    python -m benchmarks.lmms_processes --model runs/demo/understanding_sft/model \\
        --questions runs/demo/world/val_questions.json

Runs `evals/run_lmms_eval.sh` twice on a CPU and prints both scores of each kind of question; exits non-zero where any
differs. Greedy answers in float32 do not depend on who else is in a batch; in bfloat16 on a GPU near ties may, and
`--batch-size 1` takes that out.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import compare_processes
from common.command import described_parser
from common.errors import UserError, run_cli


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--questions", required=True, help="file of LLaVA conversations")
    parser.add_argument("--limit", help="questions; default all")
    arguments = parser.parse_args()
    words = [arguments.model, "--questions", arguments.questions, "--batch-size", "64"]
    words += ["--limit", arguments.limit] if arguments.limit else []
    with tempfile.TemporaryDirectory() as folder:
        one, two = map(answers, compare_processes("run_lmms_eval.sh", words, Path(folder)))
    if one != two:
        raise UserError("one process and two differ in their answers")
    print(f"equal, and so are all {len(one)} answers")


def answers(output: Path) -> dict[int, Any]:
    """To each question, by its number."""
    lines = next((output / "samples").iterdir()).read_text().splitlines()
    return {sample["doc_id"]: sample["filtered_resps"] for sample in map(json.loads, lines)}


if __name__ == "__main__":
    run_cli(main)
