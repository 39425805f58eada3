"""One process and two give the same GenEval scores, to the last digit, and the same pictures.

    python benchmarks/geneval_processes.py runs/demo/generator --prompts runs/demo/world/prompts.jsonl --detector world

Runs `evals/run_geneval.sh` with these arguments (any of its own) twice on a CPU, and prints both scores of each tag;
exits non-zero where any score, picture or detection differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from common.errors import UserError, run_cli

COMMAND = Path(__file__).parent.parent / "evals" / "run_geneval.sh"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(processes) for processes in (1, 2)]
        for processes, folder in enumerate(folders, 1):
            command = ["bash", str(COMMAND), *arguments, "--device", "cpu", "--output", str(folder)]
            environment = {**os.environ, "GPUS": str(processes)}
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        one, two = (json.loads((folder / "results.json").read_text()) for folder in folders)
        for name, score in one["scores"].items():
            print(f"{name:14} {score!r:20} {two['scores'][name]!r:20}")
        print(f"{one['seconds']:.0f} s in one process, {two['seconds']:.0f} s in two")
        files = {path.relative_to(folders[0]) for path in folders[0].rglob("*/*/*.*")}
        differing = sorted(
            str(file)
            for file in files
            if (folders[0] / file).read_bytes() != (folders[1] / file).read_bytes()
        )
    if one["scores"] != two["scores"] or differing:
        raise UserError(f"one process and two differ {differing[:1]}")
    print(f"equal, and so are all {len(files)} files of pictures and detections")


if __name__ == "__main__":
    run_cli(main)
