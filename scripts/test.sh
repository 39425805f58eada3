#!/usr/bin/env bash
# The gate: set up, then lint, types and tests.
#
#   bash scripts/test.sh                 all of it, some minutes on two cores
#   bash scripts/test.sh --fast          lint, types and the tests that are not marked slow: at most 90 seconds
#   bash scripts/test.sh -k quantizer    all other arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."

fast=
case "${1:-}" in
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' scripts/test.sh; exit 0 ;;
    --fast) fast=yes; shift ;;
esac
bash scripts/setup.sh evals  # else the tests of lmms-eval would be skipped
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

ruff check .
ruff format --check .
if [ -z "$fast" ]; then
    mypy
    exec python -m pytest "$@"
fi
# Types on one core, tests on the other.
mypy &
types=$!
failed=
python -m pytest -m "not slow" --durations=5 --durations-min=2 "$@" || failed=yes
wait "$types" || failed=yes
[ -z "$failed" ]
