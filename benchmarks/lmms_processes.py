"""One process and two give the same lmms-eval scores, to the last digit, and the same answer to every question.

    python benchmarks/lmms_processes.py --model runs/demo/understanding_sft/model \\
        --questions runs/demo/world/val_questions.json

Runs `evals/run_lmms_eval.sh` twice on a CPU and prints both scores of each kind of question; exits non-zero where any
differs. Greedy answers in float32 do not depend on who else is in a batch; in bfloat16 on a GPU near ties may, and
`--batch-size 1` takes that out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cli

COMMAND = Path(__file__).parent.parent / "evals" / "run_lmms_eval.sh"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--questions", required=True, help="file of LLaVA conversations")
    parser.add_argument("--limit", help="questions; default all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (one, one_said), (two, two_said) = (
            evaluate(arguments, Path(folder) / str(processes), processes) for processes in (1, 2)
        )
    for name, score in one["scores"].items():
        print(f"{name:30} {score!r:20} {two['scores'][name]!r:20}")
    print(f"{one['seconds']:.0f} s in one process, {two['seconds']:.0f} s in two")
    if one["scores"] != two["scores"] or one_said != two_said:
        raise UserError("one process and two differ")
    print(f"equal, and so are all {len(one_said)} answers")


def evaluate(
    arguments: argparse.Namespace, output: Path, processes: int
) -> tuple[dict[str, Any], dict[int, Any]]:
    """The result, and the answer to each question."""
    command = ["bash", str(COMMAND), arguments.model, "--questions", arguments.questions]
    command += ["--output", str(output), "--device", "cpu", "--batch-size", "64"]
    command += ["--limit", arguments.limit] if arguments.limit else []
    subprocess.run(command, env={**os.environ, "GPUS": str(processes)}, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((output / "results.json").read_text())
    lines = next((output / "samples").iterdir()).read_text().splitlines()
    return results, {sample["doc_id"]: sample["filtered_resps"] for sample in map(json.loads, lines)}


if __name__ == "__main__":
    run_cli(main)
