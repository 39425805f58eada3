#!/usr/bin/env bash
# Make .venv with everything the project needs. Safe to call again: it does nothing when nothing changed.
#
#   bash scripts/setup.sh                       the project and its tests
#   bash scripts/setup.sh evals app ocr         with these extras too (pyproject.toml has them all)
#   PYTHON=python3.11 bash scripts/setup.sh     with this Python; else the newest of those that are tested
set -euo pipefail
cd "$(dirname "$0")/.."

extras="dev"
for extra in "$@"; do
    case "$extra" in
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' scripts/setup.sh; exit 0 ;;
        -*) echo "error: $extra: unknown; extras are named without dashes" >&2; exit 2 ;;
        *) extras="$extras,$extra" ;;
    esac
done

for python in ${PYTHON:-.venv/bin/python python3.12 python3.11 python3}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then break; fi
    python=""
done
[ -n "$python" ] || {
    echo "error: Python 3.11 or 3.12 is needed, others are not supported; ${PYTHON:-none on PATH} is neither" >&2
    exit 2
}
command -v c++ >/dev/null || command -v g++ >/dev/null || {
    echo "error: a C++ compiler is needed (DeepSpeed builds its CPU operator with it): apt-get install g++" >&2
    exit 2
}

version='import sys; print("Python %d.%d" % sys.version_info[:2])'
if [ -x .venv/bin/python ] && [ "$(.venv/bin/python -c "$version")" != "$("$python" -c "$version")" ]; then
    echo "error: .venv holds $(.venv/bin/python -c "$version"), not $("$python" -c "$version"): rm -r .venv" >&2
    exit 2
fi

stamp=".venv/.vqrae-$(cat pyproject.toml constraints.txt <(echo "$extras") | sha256sum | cut -c1-16)"
[ -f "$stamp" ] && exit 0

[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv resolves torch and torchvision in one go and takes both from the same place, so that their binaries match.
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet uv
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --constraint constraints.txt --editable ".[$extras]"
# Versions that resolve may still not fit each other: found here, not in the middle of a run.
.venv/bin/python -m scripts.check_imports ${extras//,/ }
touch "$stamp"
echo "environment ready: .venv"
