"""All that needs a GPU, by one command: the hot paths on the device, the benchmarks, a step of every trainer.

    python benchmarks/gpu.py [--output DIR] [--minutes 8] [--parts a,b] [--check]

Ends within `--minutes`; its last words are one table, and DIR/results.json holds the same. On a CPU, `--check` runs
each part at tiny size. Needs a checkout and the packages of pyproject.toml (torch 2.11 and Python 3.12 will do), no
network, no weights, no data: weights and inputs are random, and the table says so.

This file only starts `benchmarks.gpu_parts.run` in its own place, so that the repository's root and not this folder
comes first on the path of imports, there and in every process that it starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "benchmarks.gpu_parts.run", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


if __name__ == "__main__":
    main()
