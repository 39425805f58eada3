"""One process and two give the same GenEval scores, to the last digit, and the same pictures.

    python -m benchmarks.geneval_processes runs/demo/generator --prompts runs/demo/world/prompts.jsonl --detector world

Runs `evals/run_geneval.sh` with these arguments (any of its own) twice on a CPU, and prints both scores of each tag;
exits non-zero where any score, picture or detection differs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import compare_processes
from common.command import described_parser
from common.errors import UserError, run_cli


def main() -> None:
    parser = described_parser(__doc__)
    _, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        one, two = compare_processes("run_geneval.sh", arguments, Path(temporary))
        files = {path.relative_to(one) for path in one.rglob("*/*/*.*")}
        differing = sorted(
            str(file) for file in files if (one / file).read_bytes() != (two / file).read_bytes()
        )
    if differing:
        raise UserError(f"one process and two differ: {differing[0]}")
    print(f"equal, and so are all {len(files)} files of pictures and detections")


if __name__ == "__main__":
    run_cli(main)
