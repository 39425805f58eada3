#!/usr/bin/env bash
# Set up, then lint, types and tests. Arguments go to pytest: bash scripts/test.sh -k quantizer
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh evals  # else the tests of lmms-eval would be skipped
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

ruff check .
ruff format --check .
mypy
python -m pytest "$@"
