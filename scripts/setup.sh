#!/usr/bin/env bash
# Make .venv with everything the project needs. Safe to call again: it does nothing when nothing changed.
#
#   bash scripts/setup.sh            the project and its tests
#   bash scripts/setup.sh evals app  with these extras too
set -euo pipefail
cd "$(dirname "$0")/.."

extras="dev"
for extra in "$@"; do extras="$extras,$extra"; done

for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
    python=""
done
[ -n "$python" ] || { echo "error: Python 3.11 or newer is needed; none was found on PATH" >&2; exit 2; }
command -v c++ >/dev/null || command -v g++ >/dev/null || {
    echo "error: a C++ compiler is needed (DeepSpeed builds its CPU operator with it): apt-get install g++" >&2
    exit 2
}

stamp=".venv/.vqrae-$(cat pyproject.toml constraints.txt <(echo "$extras") | sha256sum | cut -c1-16)"
[ -f "$stamp" ] && exit 0

[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv resolves torch and torchvision in one go and takes both from the same place, so that their binaries match.
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet uv
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --constraint constraints.txt --editable ".[$extras]"
touch "$stamp"
echo "environment ready: .venv"
