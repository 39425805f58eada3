# Sourced by every evals/run_*.sh: finds Python, adds the default output, and starts one process or several.
#
#   launch NAME MODULE "$@"
#
# runs MODULE with `--output runs/NAME` unless another is given. GPUS=8 in the environment starts eight
# processes; PYTHON=... names another interpreter than .venv's.
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

launch() {
  local name="$1" module="$2" argument
  shift 2

  local python="${PYTHON:-$repo/.venv/bin/python}"
  [ -n "${PYTHON:-}" ] || [ -x "$python" ] || python="$(command -v python3 || command -v python)" || {
    echo "error: no Python found; run scripts/setup.sh first" >&2
    exit 2
  }

  local output=(--output "$repo/runs/$name") processes="${GPUS:-1}"
  [[ "$processes" =~ ^[1-9][0-9]*$ ]] || {
    echo "error: GPUS: expected a number of processes, found '$processes'" >&2
    exit 2
  }
  for argument in "$@"; do
    case "$argument" in
      --output | --output=*) output=() ;;
      -h | --help) output=() processes=1 ;;
    esac
  done

  local command=("$python")
  [ "$processes" -eq 1 ] || command+=(-m torch.distributed.run --standalone --nproc-per-node "$processes")
  # The packages of this checkout, in whatever environment the interpreter has, and nothing of the folder it is called in.
  export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
  exec "${command[@]}" -m "$module" "$@" ${output[@]+"${output[@]}"}
}
